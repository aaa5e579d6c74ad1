# libpenstock.so: every library in one, exporting only what include/penstock/penstock.h declares.
#
# Objects are compiled with hidden visibility, which a version script cannot undo: the header therefore wraps its
# declarations in `#pragma GCC visibility push(default)`. The ctest `exports` fails where that was forgotten.

set(PENSTOCK_PUBLIC_HEADER "${CMAKE_SOURCE_DIR}/include/penstock/penstock.h")
set(PENSTOCK_HAVE_SHARED OFF)
if(NOT EXISTS "${PENSTOCK_PUBLIC_HEADER}")
    return()
endif()

set_property(DIRECTORY "${CMAKE_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PENSTOCK_PUBLIC_HEADER}")
file(READ "${PENSTOCK_PUBLIC_HEADER}" header)
string(REGEX REPLACE "/\\*([^*]|\\*+[^*/])*\\*+/" "" header "${header}") # a name in a comment is no declaration
string(REGEX MATCHALL "ps_[a-z0-9_]+[ \t\r\n]*\\([^*]" calls "${header}")
set(PENSTOCK_EXPORTS "")
foreach(call IN LISTS calls)
    string(REGEX REPLACE "[^a-z0-9_]+.*$" "" name "${call}")
    list(APPEND PENSTOCK_EXPORTS "${name}")
endforeach()
list(REMOVE_DUPLICATES PENSTOCK_EXPORTS)
list(SORT PENSTOCK_EXPORTS)

set(map "${CMAKE_BINARY_DIR}/penstock.map")
list(JOIN PENSTOCK_EXPORTS ";\n        " names)
if(names)
    set(names "    global:\n        ${names};\n")
endif()
file(CONFIGURE OUTPUT "${map}" CONTENT "PENSTOCK_0 {\n@names@    local:\n        *;\n};\n" @ONLY)

set(stub "${CMAKE_BINARY_DIR}/penstock_shared.c")
file(CONFIGURE OUTPUT "${stub}" CONTENT "/* The code comes from the static libraries. */\ntypedef int ps_shared_stub;\n")
add_library(penstock_shared SHARED "${stub}")
target_link_libraries(penstock_shared PRIVATE ps_runtime)
# -u makes the linker take each exported function, and through it all that is needed, out of the static libraries.
list(TRANSFORM PENSTOCK_EXPORTS PREPEND "-Wl,-u," OUTPUT_VARIABLE wanted)
target_link_options(penstock_shared PRIVATE ${wanted} "-Wl,--version-script=${map}" -Wl,--gc-sections)
if(NOT PENSTOCK_SANITIZE)
    target_link_options(penstock_shared PRIVATE -Wl,--no-undefined) # a sanitizer's run time comes from the program
endif()
set_target_properties(penstock_shared PROPERTIES
    OUTPUT_NAME penstock VERSION ${PROJECT_VERSION} SOVERSION 0 LINK_DEPENDS "${map}")
set(PENSTOCK_HAVE_SHARED ON)
