# libfastkernels (static and shared) and the program.
file(GLOB FK_LIBRARY_FILES CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/src/core/*.c ${CMAKE_SOURCE_DIR}/src/io/*.c ${CMAKE_SOURCE_DIR}/src/device/*.c
     ${CMAKE_SOURCE_DIR}/src/engine/*.c ${CMAKE_SOURCE_DIR}/src/judge/*.c)
file(GLOB FK_PROGRAM_FILES CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/cli/*.c)

set(FK_LINK OpenMP::OpenMP_C PkgConfig::JANSSON PkgConfig::PCRE2 Threads::Threads ${CMAKE_DL_LIBS} m)
if(FK_OPENBLAS AND FK_OPENBLAS_INCLUDE)
  list(APPEND FK_LINK ${FK_OPENBLAS})
endif()
if(FK_ONEDNN AND FK_ONEDNN_INCLUDE)
  list(APPEND FK_LINK ${FK_ONEDNN})
endif()

add_library(fk_objects OBJECT ${FK_LIBRARY_FILES} ${FK_CUDA_SOURCES} ${FK_PLAIN_FILES} ${FK_GENERATED}/registry.gen.c ${FK_GENERATED}/models.gen.c)
set_source_files_properties(${FK_GENERATED}/registry.gen.c ${FK_GENERATED}/models.gen.c PROPERTIES GENERATED TRUE)
add_dependencies(fk_objects fk_generate)
target_link_libraries(fk_objects PRIVATE fk_kernels PkgConfig::PCRE2)

# Records name the commit they were made by; "-dirty" when the tree differs from it. Looked up again after each commit.
find_package(Git QUIET)
if(GIT_FOUND AND EXISTS ${CMAKE_SOURCE_DIR}/.git)
  execute_process(COMMAND ${GIT_EXECUTABLE} describe --always --dirty --abbrev=12
                  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR} OUTPUT_VARIABLE FK_COMMIT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(FK_COMMIT)
    set_source_files_properties(src/judge/report_json.c PROPERTIES COMPILE_DEFINITIONS FK_GIT_COMMIT="${FK_COMMIT}")
  endif()
  if(EXISTS ${CMAKE_SOURCE_DIR}/.git/logs/HEAD)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/.git/logs/HEAD)
  endif()
endif()

foreach(kind STATIC SHARED)
  string(TOLOWER fastkernels_${kind} target)
  add_library(${target} ${kind} $<TARGET_OBJECTS:fk_objects> ${FK_CPU_OBJECTS} ${FK_CUDA_OBJECTS})
  set_target_properties(${target} PROPERTIES OUTPUT_NAME fastkernels VERSION ${PROJECT_VERSION} SOVERSION 0 LINKER_LANGUAGE C)
  target_include_directories(${target} INTERFACE $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
  target_link_libraries(${target} PRIVATE ${FK_LINK} ${FK_CUDA_LINK})
  if(FK_SANITIZE)
    target_link_options(${target} PUBLIC -fsanitize=address,undefined)
  endif()
endforeach()
# A forgotten library shows here, not in the program of a user.
target_link_options(fastkernels_shared PRIVATE $<$<NOT:$<BOOL:${FK_SANITIZE}>>:LINKER:--no-undefined>)
# A candidate's shared object resolves the two host symbols of abi.h against the program that loads it; a program that
# holds the static library must export them.
target_link_options(fastkernels_static INTERFACE -rdynamic)

if(FK_PROGRAM_FILES)
  add_executable(fastkernels ${FK_PROGRAM_FILES})
  target_include_directories(fastkernels PRIVATE src)
  target_link_libraries(fastkernels PRIVATE fk_flags fk_kernels fastkernels_static)
endif()
