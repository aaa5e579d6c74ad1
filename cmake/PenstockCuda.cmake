# Whether the CUDA module is built. Penstock never needs CUDA: the module is loaded at run time where it is wanted.
#
#   PENSTOCK_CUDA=AUTO|ON|OFF        AUTO: where nvcc is found. ON: stop if it is not.
#   PENSTOCK_CUDA_ARCHITECTURES      CMake's spelling (90-real), or `all`: machine code for every architecture that is
#                                    supported. The default has it for the oldest and the newest; the driver compiles the
#                                    portable code for those between and after, once, at the first start.
set(PENSTOCK_CUDA AUTO CACHE STRING "Build the CUDA module: AUTO (where nvcc is found), ON, OFF")
set_property(CACHE PENSTOCK_CUDA PROPERTY STRINGS AUTO ON OFF)
set(PENSTOCK_CUDA_ARCHITECTURES "75-real;90-real;80-virtual" CACHE STRING
    "GPU architectures of the CUDA module, in CMake's spelling, or all")

set(PENSTOCK_HAVE_CUDA OFF)
if(NOT PENSTOCK_CUDA OR PENSTOCK_SANITIZE)
    set(PENSTOCK_CUDA_WHY "off")
    return()
endif()

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(PENSTOCK_NVCC nvcc HINTS ENV CUDA_PATH ENV CUDA_HOME PATHS /usr/local/cuda PATH_SUFFIXES bin)
    mark_as_advanced(PENSTOCK_NVCC)
    if(PENSTOCK_NVCC)
        set(ENV{CUDACXX} "${PENSTOCK_NVCC}") # check_language tries it out; a compiler that is set it takes for good
    endif()
endif()
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
    set(PENSTOCK_CUDA_WHY "not built: no nvcc")
    if(DEFINED ENV{CUDACXX})
        set(PENSTOCK_CUDA_WHY "not built: $ENV{CUDACXX} does not work with this compiler (CMakeFiles/CMakeError.log)")
    endif()
    if(PENSTOCK_CUDA STREQUAL "AUTO")
        return()
    endif()
    message(FATAL_ERROR "PENSTOCK_CUDA=ON, but the CUDA module is ${PENSTOCK_CUDA_WHY}: install the CUDA toolkit, 12.4 or "
        "later, or set CMAKE_CUDA_COMPILER")
endif()

set(CMAKE_CUDA_ARCHITECTURES "${PENSTOCK_CUDA_ARCHITECTURES}")
if(PENSTOCK_CUDA_ARCHITECTURES STREQUAL "all")
    set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 90-virtual)
endif()
enable_language(CUDA)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
    if(NOT PENSTOCK_CUDA STREQUAL "AUTO")
        message(FATAL_ERROR "CUDA toolkit ${CMAKE_CUDA_COMPILER_VERSION} is too old: 12.4 or later is needed")
    endif()
    set(PENSTOCK_CUDA_WHY "not built: toolkit ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.4")
    return()
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_FLAGS_DEBUG "-O1 -g -lineinfo")
# Without -lineinfo: it makes the module 2.5 times larger, and all of it is loaded when a device is opened.
set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O3 -g")
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
set(PENSTOCK_HAVE_CUDA ON)
list(JOIN CMAKE_CUDA_ARCHITECTURES " " PENSTOCK_CUDA_WHY)
set(PENSTOCK_CUDA_WHY "libpenstock_cuda.so, toolkit ${CMAKE_CUDA_COMPILER_VERSION}, ${PENSTOCK_CUDA_WHY}")
