/* Every own kernel of the matrix products, and cuBLASLt, on every case of their tasks: which of them computes a shape
 * is otherwise decided by measurement, so that some would go untested. Runs test_cuda_tasks, which lies beside this
 * program, once per kernel with FASTKERNELS_GEMM.
 *
 *     test_cuda_gemm [--list]     --list: only says "task kernel" of each run
 *
 * Ends with 77 where there is no GPU. */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/cuda.h"

enum { SKIPPED = 77 };

static const char *const runs[][2] = {
    {"linear", "skinny_8x8"},
    {"linear", "skinny_8x8_row"},
    {"linear", "skinny_8x4_4k"},
    {"linear", "skinny_16"},
    {"linear", "skinny_16_2k"},
    {"linear", "skinny_32"},
    {"linear", "skinny_64"},
    {"linear", "stream_128"},
    {"linear", "stream_64"},
    {"linear", "stream_64_32"},
    {"linear", "rows_f32"},
    {"linear", "tile"},
    {"linear", "cublaslt"},
    {"linear_fp8", "fp8_skinny_8"},
    {"linear_fp8", "fp8_skinny_16"},
    {"linear_fp8", "fp8_skinny_32"},
    {"linear_fp8", "fp8_skinny_64"},
    {"linear_fp8", "fp8_stream"},
    {"linear_fp8", "fp8_tile"},
    {"linear_fp8", "cublaslt"},
    {"linear_fp8_block", "fp8_skinny_8"},
    {"linear_fp8_block", "fp8_skinny_16"},
    {"linear_fp8_block", "fp8_skinny_32"},
    {"linear_fp8_block", "fp8_skinny_64"},
    {"linear_fp8_block", "fp8_stream"},
    {"linear_fp8_block", "fp8_tile"},
    {"linear_fp8_block", "cublaslt"},
};

static int run(const char *program, const char *task, const char *kernel) {
  int status = 0;
  printf("%s by %s\n", task, kernel);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    setenv("FASTKERNELS_GEMM", kernel, 1);
    execl(program, program, task, (char *)NULL);
    _exit(127);
  }
  if (child < 0 || waitpid(child, &status, 0) != child) return 1;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
  printf("%s by %s failed\n", task, kernel);
  return 1;
}

int main(int argc, char **argv) {
  char self[PATH_MAX], program[PATH_MAX + 32];
  int failures = 0;
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) printf("%s %s\n", runs[i][0], runs[i][1]);
    return 0;
  }
  if (fk_cuda_device_count() == 0) {
    printf("skipped: there is no GPU\n");
    return SKIPPED;
  }
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n < 0) return 1;
  self[n] = '\0';
  snprintf(program, sizeof program, "%s/test_cuda_tasks", dirname(self));
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) failures += run(program, runs[i][0], runs[i][1]);
  printf("%d of %zu failed\n", failures, sizeof runs / sizeof *runs);
  return failures != 0;
}
