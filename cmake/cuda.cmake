# CUDA is optional: found by its compiler, never needed to build or run the rest. Every .cu file of the tree is compiled
# wherever nvcc is, GPU or not. Gives FK_CUDA_OBJECTS, FK_CUDA_SOURCES and FK_CUDA_LINK to the library, empty without CUDA.
set(FK_CUDA_OBJECTS)
set(FK_CUDA_SOURCES)
set(FK_CUDA_LINK)
if(FK_CUDA STREQUAL "OFF")
  return()
endif()
include(CheckLanguage)
if(NOT DEFINED ENV{CUDACXX} AND NOT CMAKE_CUDA_COMPILER)
  find_program(FK_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda/bin /opt/cuda/bin)
  if(FK_NVCC)
    set(ENV{CUDACXX} ${FK_NVCC})
  endif()
endif()
# One build serves Ampere and later: 9.0 is the tuned one, others fall back within the kernels.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100-real)
endif()
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(FK_CUDA STREQUAL "REQUIRED")
    message(FATAL_ERROR "FK_CUDA is REQUIRED, but there is no working CUDA compiler (nvcc and a host C++ compiler)")
  endif()
  message(STATUS "CUDA: no compiler found; building without it")
  return()
endif()
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
enable_language(CUDA)
message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER} ${CMAKE_CUDA_COMPILER_VERSION}, architectures ${CMAKE_CUDA_ARCHITECTURES}")

find_package(CUDAToolkit REQUIRED)

# Kernels: CUDA C, no exceptions and no C++ library, so that the program needs neither.
file(GLOB FK_CUDA_FILES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/*/*/*.cu ${CMAKE_SOURCE_DIR}/blocks/*/*/*.cu
     ${CMAKE_SOURCE_DIR}/src/device/cuda/*.cu)
set(FK_CUDA_FLAGS --Werror=all-warnings -Xfatbin=-compress-all
    -Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics)
add_library(fk_cuda OBJECT ${FK_CUDA_FILES})
add_dependencies(fk_cuda fk_generate)
target_include_directories(fk_cuda PRIVATE include src ${FK_GENERATED})
target_compile_options(fk_cuda PRIVATE ${FK_CUDA_FLAGS})
set(FK_CUDA_OBJECTS $<TARGET_OBJECTS:fk_cuda>)

# The rest of the device is C.
file(GLOB FK_CUDA_SOURCES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/device/cuda/*.c)
set(FK_CUDA_LINK ${CUDA_cudart_static_LIBRARY} rt)
string(REPLACE "-real" "" FK_CUDA_ARCHITECTURE_NAMES "${CMAKE_CUDA_ARCHITECTURES}")
string(REPLACE ";" " " FK_CUDA_ARCHITECTURE_NAMES "${FK_CUDA_ARCHITECTURE_NAMES}")
target_compile_definitions(fk_kernels INTERFACE FK_HAVE_CUDA FK_CUDA_ARCHITECTURES="${FK_CUDA_ARCHITECTURE_NAMES}")
target_include_directories(fk_kernels SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})

# Files that are compiled to see that they compile: candidates, and abi.h alone.
file(GLOB FK_CUDA_CHECKED CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/examples/candidates/*.cu ${CMAKE_SOURCE_DIR}/tests/cuda/*.cu)
add_library(fk_cuda_checked OBJECT ${FK_CUDA_CHECKED})
target_include_directories(fk_cuda_checked PRIVATE include)
target_compile_options(fk_cuda_checked PRIVATE --Werror=all-warnings -Xcompiler=-Wall,-Wextra)
