# penstock_library(NAME [SOURCES file...] [LIBS target...]): a static library of this directory.
#
# A directory that holds no source yet gets a stub, so that work on the others is not held up.
function(penstock_library name)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBS")
    if(NOT arg_SOURCES)
        set(stub "${CMAKE_CURRENT_BINARY_DIR}/${name}_stub.c")
        file(CONFIGURE OUTPUT "${stub}" CONTENT "/* This directory holds no source yet. */\ntypedef int @name@_stub;\n" @ONLY)
        set(arg_SOURCES "${stub}")
    endif()
    add_library(${name} STATIC ${arg_SOURCES})
    penstock_target(${name})
    target_link_libraries(${name} PUBLIC ${arg_LIBS})
endfunction()

# Include paths and warnings of our own code (generated code has neither).
function(penstock_target name)
    target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}" "${CMAKE_SOURCE_DIR}/include")
    target_compile_options(${name} PRIVATE ${PENSTOCK_WARNINGS})
endfunction()

# The same for C++.
function(penstock_cxx_target name)
    target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}" "${CMAKE_SOURCE_DIR}/include")
    target_compile_options(${name} PRIVATE ${PENSTOCK_CXX_WARNINGS})
endfunction()
