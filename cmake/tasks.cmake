# From folders to a table: taskc validates every definition and writes the registry; each cpu.c is compiled once per
# instruction set and the best one is chosen at start.
set(FK_GENERATED ${CMAKE_BINARY_DIR}/generated)

file(GLOB FK_TASK_FILES CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/kernels/*/*/task.json ${CMAKE_SOURCE_DIR}/blocks/*/*/task.json)
file(GLOB FK_PRESET_FILES CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/models/*/presets/*.json ${CMAKE_SOURCE_DIR}/workloads/*.json)
file(GLOB FK_PLAIN_FILES CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/kernels/*/*/ref.c ${CMAKE_SOURCE_DIR}/kernels/*/*/compose.c
     ${CMAKE_SOURCE_DIR}/blocks/*/*/compose.c ${CMAKE_SOURCE_DIR}/blocks/*/*/ref.c ${CMAKE_SOURCE_DIR}/models/*/*.c)
file(GLOB FK_CPU_FILES CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/kernels/*/*/cpu.c ${CMAKE_SOURCE_DIR}/blocks/*/*/cpu.c)

file(GLOB FK_CUDA_TASK_FILES CONFIGURE_DEPENDS
     ${CMAKE_SOURCE_DIR}/kernels/*/*/cuda.cu ${CMAKE_SOURCE_DIR}/blocks/*/*/cuda.cu)

add_executable(taskc tools/taskc.c src/core/arena.c src/core/error.c src/core/expr.c src/core/task_json.c src/core/task_keys.c src/core/task_tensors.c src/core/dtype.c)
target_include_directories(taskc PRIVATE include src)
target_link_libraries(taskc PRIVATE fk_flags PkgConfig::JANSSON)

set(FK_TASK_HEADERS)
foreach(file ${FK_TASK_FILES})
  cmake_path(GET file PARENT_PATH folder)
  cmake_path(GET folder FILENAME task)
  list(APPEND FK_TASK_HEADERS ${FK_GENERATED}/tasks/${task}.h)
endforeach()
add_custom_command(
  OUTPUT ${FK_GENERATED}/stamp
  BYPRODUCTS ${FK_GENERATED}/registry.gen.c ${FK_GENERATED}/models.gen.c ${FK_TASK_HEADERS}
  COMMAND taskc ${CMAKE_SOURCE_DIR} ${FK_GENERATED}
  COMMAND ${CMAKE_COMMAND} -E touch ${FK_GENERATED}/stamp
  DEPENDS taskc ${FK_TASK_FILES} ${FK_PRESET_FILES} ${FK_PLAIN_FILES} ${FK_CPU_FILES} ${FK_CUDA_TASK_FILES}
  COMMENT "Validating task definitions")
add_custom_target(fk_generate DEPENDS ${FK_GENERATED}/stamp)

add_library(fk_kernels INTERFACE)
target_include_directories(fk_kernels INTERFACE include src ${FK_GENERATED})
target_link_libraries(fk_kernels INTERFACE fk_flags OpenMP::OpenMP_C PkgConfig::JANSSON)
if(FK_OPENBLAS AND FK_OPENBLAS_INCLUDE)
  target_compile_definitions(fk_kernels INTERFACE FK_HAVE_OPENBLAS)
  target_include_directories(fk_kernels SYSTEM INTERFACE ${FK_OPENBLAS_INCLUDE})
endif()
if(FK_ONEDNN AND FK_ONEDNN_INCLUDE)
  target_compile_definitions(fk_kernels INTERFACE FK_HAVE_ONEDNN)
endif()

# Contraction to FMA, in the CPU kernels only. A property of the files because only those options come after the
# contract=off that all targets share.
set_source_files_properties(${FK_CPU_FILES} PROPERTIES COMPILE_OPTIONS -ffp-contract=fast)

set(FK_ISAS baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|amd64|AMD64")
  list(APPEND FK_ISAS avx2 avx512)
  target_compile_definitions(fk_kernels INTERFACE FK_HAVE_ISAS)
endif()
set(FK_ISA_FLAGS_avx2 -march=x86-64-v3 -mtune=generic)
set(FK_ISA_FLAGS_avx512 -march=x86-64-v4 -mprefer-vector-width=512)
set(FK_CPU_OBJECTS)
foreach(isa ${FK_ISAS})
  if(FK_CPU_FILES)
    add_library(fk_cpu_${isa} OBJECT ${FK_CPU_FILES})
    add_dependencies(fk_cpu_${isa} fk_generate)
    target_link_libraries(fk_cpu_${isa} PRIVATE fk_kernels)
    target_compile_definitions(fk_cpu_${isa} PRIVATE FK_ISA=${isa})
    # No errno and no traps: faster, and no less exact. NaN, Inf and signed zero keep their meaning.
    target_compile_options(fk_cpu_${isa} PRIVATE -O3 -fno-math-errno -fno-trapping-math ${FK_ISA_FLAGS_${isa}})
    list(APPEND FK_CPU_OBJECTS $<TARGET_OBJECTS:fk_cpu_${isa}>)
  endif()
endforeach()
