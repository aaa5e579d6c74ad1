# bash completion of penstock, made by `penstock completion bash`
# shellcheck shell=bash
_penstock() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local i command="" opts words
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in -*) ;; *) command=${COMP_WORDS[i]}; break ;; esac
    done
    case $prev in
        -m | --model) return ;;
        -p | --prompt) return ;;
        -f | --file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        -n | --predict | --n-predict) return ;;
        -c | --ctx-size) return ;;
        --stop) return ;;
        --temp) return ;;
        --top-k) return ;;
        --top-p) return ;;
        --min-p) return ;;
        --repeat-penalty) return ;;
        --repeat-last-n) return ;;
        -s | --seed) return ;;
        --disk) return ;;
        --ram) return ;;
        --vram) return ;;
        --cache) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); return ;;
        --min-free) return ;;
        --priority) return ;;
        --connections) return ;;
        --net-deadline) return ;;
        --net-stall) return ;;
        --max-egress) return ;;
        --net-limit) return ;;
        --hedge) return ;;
        --oauth2-bearer | --bearer) return ;;
        --bearer-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        -H | --header) return ;;
        --netrc-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --cacert) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --cert) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --key) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --mirror) return ;;
        --http) mapfile -t COMPREPLY < <(compgen -W "auto h1 h2" -- "$cur"); return ;;
        --verify-key) return ;;
        -t | --threads) return ;;
        -dev | --device) return ;;
        -ngl | --n-gpu-layers | --gpu-layers) return ;;
        -ub | --ubatch-size) return ;;
        -ctk | --cache-type-k) mapfile -t COMPREPLY < <(compgen -W "f32 f16 bf16" -- "$cur"); return ;;
        -ctv | --cache-type-v) mapfile -t COMPREPLY < <(compgen -W "f32 f16 bf16" -- "$cur"); return ;;
        --direct-io) mapfile -t COMPREPLY < <(compgen -W "auto on off" -- "$cur"); return ;;
        --tokens) return ;;
        --out) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --seconds) return ;;
        --codec) mapfile -t COMPREPLY < <(compgen -W "raw lz4 wh xc34 q8b64 nf4b64" -- "$cur"); return ;;
        --sign) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --layers) return ;;
        --bytes) return ;;
        --from-file) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --price-per-gb) return ;;
        --host) return ;;
        --port) return ;;
        --stats) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
        --log) mapfile -t COMPREPLY < <(compgen -W "error warn info debug trace" -- "$cur"); return ;;
    esac
    case $command in
        run) opts=" -m --model -p --prompt -f --file -n --n-predict -c --ctx-size --stop --ignore-eos --echo --special --no-bos --temp --top-k --top-p --min-p --repeat-penalty --repeat-last-n -s --seed --disk --ram --vram --cache --min-free --priority --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key -t --threads -dev --device -ngl --gpu-layers -nkvo --no-kv-offload -ub --ubatch-size -ctk --cache-type-k -ctv --cache-type-v --direct-io --json --stats -q --quiet --log -h --help"; words="" ;;
        chat) opts=" -h --help"; words="" ;;
        serve) opts=" -h --help"; words="" ;;
        plan) opts=" -m --model -p --prompt -f --file -n --n-predict -c --ctx-size --disk --ram --vram --cache --min-free --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key -t --threads -dev --device -ngl --gpu-layers -nkvo --no-kv-offload -ub --ubatch-size -ctk --cache-type-k -ctv --cache-type-v --direct-io --probe --seconds --price-per-gb --json -q --quiet --log -h --help"; words="" ;;
        doctor) opts=" -m --model -c --ctx-size --disk --ram --vram --cache --min-free --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key -t --threads -dev --device -ngl --gpu-layers -nkvo --no-kv-offload -ctk --cache-type-k -ctv --cache-type-v --direct-io --seconds --json -q --quiet --log -h --help"; words="" ;;
        split) opts=" --ram --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http -t --threads --codec --sign --delete-source --json -q --quiet --log -h --help"; words="" ;;
        keygen) opts=" --json -q --quiet --log -h --help"; words="" ;;
        warm) opts=" -m --model -c --ctx-size --disk --ram --vram --cache --min-free --priority --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key -t --threads -dev --device -ngl --gpu-layers -nkvo --no-kv-offload -ctk --cache-type-k -ctv --cache-type-v --direct-io --layers --check --bytes --from-file --dry-run --price-per-gb --json -q --quiet --log -h --help"; words="" ;;
        share) opts=" --host --port --json -q --quiet --log -h --help"; words="" ;;
        cache) opts=" --cache --repair --all --json -q --quiet --log -h --help"; words="ls stat dir verify evict pin unpin" ;;
        inspect) opts=" -m --model --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key --diff --content --extents --json -q --quiet --log -h --help"; words="" ;;
        logits) opts=" -m --model -c --ctx-size --disk --ram --vram --cache --min-free --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key -t --threads -dev --device -ngl --gpu-layers -nkvo --no-kv-offload -ctk --cache-type-k -ctv --cache-type-v --direct-io --tokens --out --json -q --quiet --log -h --help"; words="" ;;
        tokenize) opts=" -m --model -p --prompt -f --file --no-bos --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key --json -q --quiet --log -h --help"; words="" ;;
        bench) opts=" --cache --connections --net-deadline --net-stall --max-egress --net-limit --hedge --bearer --bearer-file -H --header --netrc --netrc-file --cacert --cert --key --mirror --http --verify-key -t --threads --seconds --json -q --quiet --log -h --help"; words="gemv codec disk net" ;;
        completion) opts=" -h --help"; words="bash zsh fish" ;;
        version) opts=" --json -h --help"; words="" ;;
        help) opts=" -h --help"; words="run chat serve plan doctor split keygen warm share cache inspect logits tokenize bench completion version help" ;;
        *) opts="--help --version"; words="run chat serve plan doctor split keygen warm share cache inspect logits tokenize bench completion version help" ;;
    esac
    if [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$opts" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur"
            [[ -n $command ]] && compgen -f -- "$cur")
    fi
}
complete -o filenames -F _penstock penstock
