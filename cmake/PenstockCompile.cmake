# Language level, warnings, optimisation and sanitizers: everything that holds for every C file.

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # _GNU_SOURCE and the futex, cpuid and statx calls of Linux
set(CMAKE_CXX_STANDARD 17) # kernels/cuda only
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON) # the same objects go into libpenstock.so
set(CMAKE_C_VISIBILITY_PRESET hidden)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)

# No -DNDEBUG anywhere: PS_ASSERT guards invariants in release builds too.
set(CMAKE_C_FLAGS_DEBUG "-O1 -g")
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_C_FLAGS_RELEASE "-O2")
set(CMAKE_CXX_FLAGS_DEBUG "${CMAKE_C_FLAGS_DEBUG}")
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_C_FLAGS_RELWITHDEBINFO}")
set(CMAKE_CXX_FLAGS_RELEASE "${CMAKE_C_FLAGS_RELEASE}")

add_compile_definitions(_GNU_SOURCE _FILE_OFFSET_BITS=64)

# Exactness: the compiler must not fuse a multiply and an add that the source keeps apart, or the same model gives
# another text on another compiler. Kernels that want a fused operation say fma().
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off>")
add_compile_options("$<$<COMPILE_LANGUAGE:C,CXX>:-ffunction-sections;-fdata-sections;-fno-common>")

set(PENSTOCK_WARNINGS
    -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wvla -Wwrite-strings
    -Wformat=2 -Wundef -Wpointer-arith -Wcast-align -Wimplicit-fallthrough -Wnull-dereference -Wdate-time)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    list(APPEND PENSTOCK_WARNINGS -Wduplicated-cond -Wlogical-op)
    if(PENSTOCK_SANITIZE)
        # With the sanitizers' extra branches gcc 12 sees null pointers and uninitialised values where there are none.
        list(REMOVE_ITEM PENSTOCK_WARNINGS -Wnull-dereference)
        list(APPEND PENSTOCK_WARNINGS -Wno-maybe-uninitialized)
    endif()
endif()
set(PENSTOCK_CXX_WARNINGS -Wall -Wextra -Wshadow)
if(PENSTOCK_WERROR)
    list(APPEND PENSTOCK_WARNINGS -Werror)
    list(APPEND PENSTOCK_CXX_WARNINGS -Werror)
endif()

set(PENSTOCK_KERNEL_OPT -O3)
if(PENSTOCK_SANITIZE STREQUAL "address")
    add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
    add_link_options(-fsanitize=address,undefined)
    set(PENSTOCK_KERNEL_OPT -O1)
elseif(PENSTOCK_SANITIZE STREQUAL "thread")
    add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
    add_link_options(-fsanitize=thread)
    set(PENSTOCK_KERNEL_OPT -O1)
elseif(PENSTOCK_SANITIZE)
    message(FATAL_ERROR "PENSTOCK_SANITIZE is '${PENSTOCK_SANITIZE}': use address, thread, or leave it empty")
endif()

set(PENSTOCK_IS_X86 OFF)
set(PENSTOCK_IS_ARM64 OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    set(PENSTOCK_IS_X86 ON)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    set(PENSTOCK_IS_ARM64 ON)
endif()
