# Flags of every target of ours: warnings are errors, sanitizers when asked for.
add_library(fk_flags INTERFACE)
target_compile_options(fk_flags INTERFACE -Wall -Wextra -Werror)
# clang says of "omp simd" loops under the sanitizers that it left them alone.
target_compile_options(fk_flags INTERFACE $<$<C_COMPILER_ID:Clang>:-Wno-unused-command-line-argument> $<$<C_COMPILER_ID:Clang>:-Wno-pass-failed>)
# Floating point: exact by default. The CPU kernels relax what cannot change a result's meaning (cmake/tasks.cmake).
target_compile_options(fk_flags INTERFACE -ffp-contract=off)
target_compile_definitions(fk_flags INTERFACE _GNU_SOURCE)
if(FK_SANITIZE)
  target_compile_options(fk_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g)
  target_link_options(fk_flags INTERFACE -fsanitize=address,undefined)
endif()
if(FK_FUZZ)
  # The fuzzer is guided by the coverage of what it calls, not of the target alone.
  target_compile_options(fk_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
