/* fastkernels doctor: what this machine has and lacks, in words and as JSON, with the two ceilings measured. */
#include <jansson.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef FK_HAVE_OPENBLAS
#include <cblas.h>
#endif
#ifdef FK_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include "cli/cli.h"
#include "core/registry.h"
#include "device/cuda.h"
#include "engine/ceilings.h"

/* Facts are kept as JSON and, unless JSON was asked for, printed as they come. */
typedef struct report {
  json_t *root;
  bool text;
} report;

/* One fact: value (whose reference it takes) under "section.key", and a sentence for people. */
__attribute__((format(printf, 5, 6))) static void fact(report *r, const char *section, const char *key, json_t *value,
                                                       const char *format, ...) {
  json_t *group = json_object_get(r->root, section);
  bool first = !group;
  if (first) {
    group = json_object();
    json_object_set_new(r->root, section, group);
  }
  json_object_set_new(group, key, value);
  if (!r->text) return;
  va_list ap;
  va_start(ap, format);
  printf("%-10s", first ? section : "");
  vprintf(format, ap);
  putchar('\n');
  fflush(stdout);
  va_end(ap);
}

/* The value of "key : value" in a /proc file. */
static bool proc_value(const char *path, const char *key, char *value, size_t size) {
  FILE *f = fopen(path, "r");
  char line[512];
  bool found = false;
  while (f && !found && fgets(line, sizeof line, f)) {
    char *colon = strchr(line, ':');
    if (!colon || strncmp(line, key, strlen(key)) != 0) continue;
    for (colon++; *colon == ' ' || *colon == '\t'; colon++) continue;
    snprintf(value, size, "%.*s", (int)strcspn(colon, "\n"), colon);
    found = true;
  }
  if (f) fclose(f);
  return found;
}

static void report_cpu(report *r) {
  char model[128] = "unknown", kilobytes[64];
  proc_value("/proc/cpuinfo", "model name", model, sizeof model);
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  fact(r, "cpu", "model", json_string(model), "%s", model);
  fact(r, "cpu", "logical_cores", json_integer(cores), "%ld logical cores online", cores);
  const char *isa = fk_cpu_isa_name(fk_cpu_isa());
  fact(r, "cpu", "isa", json_string(isa), "kernels built for %s are used (FASTKERNELS_ISA lowers this)", isa);
  size_t cache = fk_last_level_cache();
  fact(r, "cpu", "last_level_cache_bytes", json_integer((json_int_t)cache), "%.1f MiB last-level cache",
       (double)cache / (1 << 20));
  double memory[2] = {0, 0};
  static const char *const keys[] = {"MemTotal", "MemAvailable"};
  for (int i = 0; i < 2; i++)
    if (proc_value("/proc/meminfo", keys[i], kilobytes, sizeof kilobytes)) memory[i] = 1024 * strtod(kilobytes, NULL);
  fact(r, "memory", "total_bytes", json_integer((json_int_t)memory[0]), "%.1f GiB", memory[0] / (1 << 30));
  fact(r, "memory", "available_bytes", json_integer((json_int_t)memory[1]), "%.1f GiB available",
       memory[1] / (1 << 30));
}

static void report_software(report *r) {
  int threads = 1, count = 0;
  bool loaded = fk_tasks(&count) != NULL;
#ifdef _OPENMP
  threads = omp_get_max_threads();
#endif
  fact(r, "software", "fastkernels", json_string(FK_VERSION), "fastkernels " FK_VERSION);
  fact(r, "software", "tasks", json_integer(count), "%d tasks%s%s", count, loaded ? "" : ": ",
       loaded ? "" : fk_last_error());
  fact(r, "software", "openmp_threads", json_integer(threads), "OpenMP uses %d threads (OMP_NUM_THREADS changes this)",
       threads);
#ifdef FK_HAVE_OPENBLAS
  static const char *const models[] = {"sequential", "pthreads", "OpenMP"};
  const char *model = models[openblas_get_parallel() % 3];
  fact(r, "software", "openblas", json_string(openblas_get_config()), "%s, kernels for %s, threads by %s%s",
       openblas_get_config(), openblas_get_corename(), model,
       openblas_get_parallel() == 2 ? "" : ": two thread pools will compete");
#else
  fact(r, "software", "openblas", json_null(), "built without OpenBLAS: matrix products by our own kernels only");
#endif
#ifdef FK_HAVE_ONEDNN
  const dnnl_version_t *v = dnnl_version();
  json_t *version = json_sprintf("%d.%d.%d", v->major, v->minor, v->patch);
  fact(r, "software", "onednn", version, "oneDNN %s", json_string_value(version));
#else
  fact(r, "software", "onednn", json_null(), "built without oneDNN");
#endif
}

/* The first of the names that PATH or one of the usual folders holds. */
static bool find_program(const char *name, char *found, size_t size) {
  char places[8192];
  const char *path = getenv("PATH");
  snprintf(places, sizeof places, "%s:/usr/local/cuda/bin", path ? path : "/usr/bin");
  char *rest = NULL;
  for (char *folder = strtok_r(places, ":", &rest); folder; folder = strtok_r(NULL, ":", &rest)) {
    snprintf(found, size, "%s/%s", folder, name);
    if (access(found, X_OK) == 0) return true;
  }
  return false;
}

static void report_compilers(report *r) {
  char path[4096];
  const char *cc = getenv("CC");
  if (find_program(cc && *cc ? cc : "cc", path, sizeof path))
    fact(r, "compilers", "c", json_string(path), "%s compiles candidates written in C", path);
  else
    fact(r, "compilers", "c", json_null(), "no C compiler: candidates must come as .so files");
  if (find_program("nvcc", path, sizeof path))
    fact(r, "compilers", "cuda", json_string(path), "%s compiles CUDA candidates", path);
  else
    fact(r, "compilers", "cuda", json_null(), "no nvcc: CUDA candidates cannot be compiled here");
}

static json_t *version_text(int version) {
  return json_sprintf("%d.%d", version / 1000, version % 1000 / 10);
}

static fk_status report_device(report *r, int id, json_t *devices) {
  fk_cuda *cuda;
  fk_cuda_info i;
  FK_TRY(fk_cuda_create(id, &cuda));
  fk_status status = fk_cuda_describe(cuda, &i);
  fk_cuda_destroy(cuda);
  FK_TRY(status);
  json_t *o = json_object();
  json_object_set_new(o, "name", json_string(i.name));
  json_object_set_new(o, "compute_capability",
                      json_sprintf("%d.%d", i.compute_capability / 10, i.compute_capability % 10));
  json_object_set_new(o, "multiprocessors", json_integer(i.num_sms));
  json_object_set_new(o, "memory_bytes", json_integer((json_int_t)i.memory_bytes));
  json_object_set_new(o, "l2_bytes", json_integer((json_int_t)i.l2_bytes));
  json_array_append_new(devices, o);
  fact(r, "gpu", "devices", json_incref(devices),
       "%d: %s, compute capability %d.%d, %d multiprocessors, %.1f GiB, "
       "%.0f MiB L2",
       id, i.name, i.compute_capability / 10, i.compute_capability % 10, i.num_sms, (double)i.memory_bytes / (1 << 30),
       (double)i.l2_bytes / (1 << 20));
  if (id > 0) return FK_OK;
  json_t *driver = version_text(i.driver_version), *runtime = version_text(i.runtime_version);
  fact(r, "gpu", "driver", driver, "driver for CUDA %s", json_string_value(driver));
  fact(r, "gpu", "runtime", runtime, "runtime of CUDA %s, kernels for %s", json_string_value(runtime),
       fk_cuda_architectures());
  fact(r, "gpu", "cublaslt", *i.cublaslt ? json_string(i.cublaslt) : json_null(), "cuBLASLt %s",
       *i.cublaslt ? i.cublaslt : "was not found: matrix products by our own kernels only");
  fact(r, "gpu", "cudnn", *i.cudnn ? json_string(i.cudnn) : json_null(), "cuDNN %s",
       *i.cudnn ? i.cudnn : "was not found: convolutions by our own kernels only");
  return FK_OK;
}

static void report_gpu(report *r) {
  int count = fk_cuda_device_count();
  fk_cuda *cuda = NULL;
  json_t *devices = json_array();
  fk_status status = FK_OK;
  for (int i = 0; i < count && !status; i++) status = report_device(r, i, devices);
  if (count == 0) status = fk_cuda_create(0, &cuda); /* which says why there is none */
  if (status) fact(r, "gpu", "devices", json_incref(devices), "%s", fk_last_error());
  fk_cuda_destroy(cuda);
  json_decref(devices);
}

/* Whether an unprivileged process may make user namespaces: tried, in a child. */
static bool can_unshare(void) {
  pid_t child = fork();
  if (child == 0) _exit(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 ? 0 : 1);
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void report_sandbox(report *r) {
  bool namespaces = can_unshare(), seccomp = access("/proc/sys/kernel/seccomp/actions_avail", F_OK) == 0;
  long landlock = -1;
#ifdef SYS_landlock_create_ruleset
  landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1u); /* asks for the version */
#endif
  fact(r, "sandbox", "user_namespaces", json_boolean(namespaces), "user and network namespaces: %s",
       namespaces ? "yes" : "no");
  fact(r, "sandbox", "seccomp", json_boolean(seccomp), "seccomp filters: %s", seccomp ? "yes" : "no");
  if (landlock > 0)
    fact(r, "sandbox", "landlock_abi", json_integer(landlock), "Landlock: yes, version %ld", landlock);
  else
    fact(r, "sandbox", "landlock_abi", json_integer(0), "Landlock: no");
}

/* Of the first GPU. */
static fk_status report_gpu_ceilings(report *r) {
  fk_context *ctx;
  fk_cuda_ceilings c;
  FK_TRY(fk_context_create(&(fk_context_options){.backend = FK_CUDA}, &ctx));
  fk_status status = fk_measure_cuda(ctx, &c);
  fk_context_destroy(ctx);
  FK_TRY(status);
  fact(r, "ceilings", "gpu_copy_bytes_per_second", json_real(c.bytes_per_second),
       "%.2f TB/s copying within GPU memory (read + written)", c.bytes_per_second / 1e12);
  fact(r, "ceilings", "gpu_gemm_bfloat16_flops_per_second", json_real(c.flops_per_second),
       "%.0f TFLOP/s bfloat16 matrix product on the GPU, 8192 x 8192", c.flops_per_second / 1e12);
  return FK_OK;
}

static fk_status report_ceilings(report *r) {
  fk_copy_ceiling copy;
  fk_gemm_ceiling gemm;
  FK_TRY(fk_measure_copy(0.7, &copy));
  fact(r, "ceilings", "copy_bytes_per_second", json_real(copy.bytes_per_second),
       "%.2f GB/s copying (read + written), working set %.0f MiB%s", copy.bytes_per_second / 1e9,
       (double)copy.working_set / (1 << 20), copy.beyond_cache ? "" : ": within the cache, for lack of memory");
  json_object_set_new(json_object_get(r->root, "ceilings"), "copy_working_set_bytes",
                      json_integer((json_int_t)copy.working_set));
  FK_TRY(fk_measure_gemm(1.2, &gemm));
  fact(r, "ceilings", "gemm_float32_flops_per_second", json_real(gemm.flops_per_second),
       "%.1f GFLOP/s float32 matrix product, %lld x %lld, by %s", gemm.flops_per_second / 1e9, (long long)gemm.size,
       (long long)gemm.size, gemm.by);
  json_object_set_new(json_object_get(r->root, "ceilings"), "gemm_by", json_string(gemm.by));
  return fk_cuda_device_count() ? report_gpu_ceilings(r) : FK_OK;
}

int fk_cmd_doctor(int argc, char **argv) {
  static const cli_option options[] = {
      {"json", NULL, "print one JSON object instead of text"}, {"quick", NULL, "leave out the measurements"}, {0}};
  static const cli_spec spec = {
      .command = "doctor",
      .arguments = "",
      .summary = "Says what this machine has and lacks, and measures its ceilings (about 4 s).",
      .options = options};
  cli c;
  int exit_status;
  if (!cli_parse(&c, &spec, argc, argv, &exit_status)) return exit_status;
  report r = {.root = json_object(), .text = !cli_flag(&c, "json")};
  if (!r.root) return cli_fail(&c, "out of memory");
  report_cpu(&r);
  report_software(&r);
  report_compilers(&r);
  report_gpu(&r);
  report_sandbox(&r);
  fk_status status = cli_flag(&c, "quick") ? FK_OK : report_ceilings(&r);
  if (!status && !r.text) {
    json_dumpf(r.root, stdout, JSON_INDENT(2));
    putchar('\n');
  }
  json_decref(r.root);
  return status ? cli_error(&c) : 0;
}
