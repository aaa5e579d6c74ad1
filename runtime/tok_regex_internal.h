/* What the regex parser hands to the code generator: a tree of nodes and the sets that they use. */
#ifndef PS_RUNTIME_TOK_REGEX_INTERNAL_H
#define PS_RUNTIME_TOK_REGEX_INTERNAL_H
#include "base/err.h"
#include "runtime/tok_unicode.h"

#define PS_RX_PATTERN_MAX                                                                          \
    32768u                   /* bytes; the longest seen in a published tokenizer is under 3 KiB */
#define PS_RX_DEPTH_MAX  40u /* nested groups, so that recursion over the tree is bounded */
#define PS_RX_NODES_MAX  65536u
#define PS_RX_SETS_MAX   256u
#define PS_RX_REPEAT_MAX 1000u
#define PS_RX_INFINITE   UINT32_MAX

enum ps_rx_kind {
    PS_RX_EMPTY,
    PS_RX_CHAR,   /* a: code point */
    PS_RX_SET,    /* a: set */
    PS_RX_CAT,    /* a then b */
    PS_RX_ALT,    /* a or b */
    PS_RX_REP,    /* a, min..max times, mode */
    PS_RX_LOOK,   /* a; behind, negative */
    PS_RX_ATOMIC, /* a */
    PS_RX_ASSERT, /* a: enum ps_rx_assert */
};
enum ps_rx_mode { PS_RX_GREEDY, PS_RX_LAZY, PS_RX_POSSESSIVE };
enum ps_rx_assert {
    PS_RX_LINE_START,
    PS_RX_LINE_END,
    PS_RX_TEXT_START,
    PS_RX_TEXT_END,
    PS_RX_TEXT_END_NL, /* the end, or before a final newline */
    PS_RX_WORD_EDGE,
    PS_RX_NOT_WORD_EDGE,
};

struct ps_rx_node {
    uint8_t kind, mode;
    bool behind, negative;
    uint32_t a, b, min, max;
};
struct ps_rx_tree {
    struct ps_rx_node *nodes;
    uint32_t n_nodes, cap_nodes, root;
    struct ps_uc_set *sets;
    uint32_t n_sets, cap_sets;
};

int ps_rx_parse(struct ps_rx_tree *out, const char *pattern, size_t len, struct ps_err *err);
void ps_rx_tree_deinit(struct ps_rx_tree *t);
#endif
