# What the build uses, all of it from the system. Required: jansson, PCRE2, OpenMP. Used where present: OpenBLAS, oneDNN.
# FK_PORTABLE: programs for a machine that has none of these packages: static libraries, and our own matrix products.
if(FK_PORTABLE)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)
  set(FK_OPENBLAS "" CACHE STRING "" FORCE)
  set(FK_ONEDNN "" CACHE STRING "" FORCE)
endif()
find_package(PkgConfig REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
find_package(Threads REQUIRED)
pkg_check_modules(JANSSON REQUIRED IMPORTED_TARGET jansson>=2.13)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)

# OpenBLAS in its OpenMP build, so that it shares one thread pool with our kernels.
find_library(FK_OPENBLAS NAMES openblas PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp NO_DEFAULT_PATH)
find_library(FK_OPENBLAS NAMES openblas)
find_path(FK_OPENBLAS_INCLUDE cblas.h PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp NO_DEFAULT_PATH)
find_path(FK_OPENBLAS_INCLUDE cblas.h PATHS /usr/include/openblas)
find_library(FK_ONEDNN NAMES dnnl)
find_path(FK_ONEDNN_INCLUDE oneapi/dnnl/dnnl.h)
