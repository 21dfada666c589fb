#include "judge/candidate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/registry.h"

extern char **environ;

/* Processes, programs, sockets, other processes' memory, loaders, signals, timers, ends of the process, files
 * written, and the door to all of them. */
static const char *const unsafe_names[] = {
    "fork", "vfork", "clone", "clone3", "system", "popen", "posix_spawn", "posix_spawnp", "execl", "execlp", "execle",
    "execv", "execvp", "execve", "execvpe", "fexecve", "socket", "socketpair", "connect", "bind", "listen", "accept",
    "accept4", "send", "sendto", "sendmsg", "recv", "recvfrom", "recvmsg", "ptrace", "dlopen", "dlmopen", "dlsym",
    "dlvsym", "signal", "sigaction", "sigaltstack", "bsd_signal", "sysv_signal", "setitimer", "alarm", "timer_create",
    "kill", "killpg", "tgkill", "raise", "exit", "_exit", "_Exit", "quick_exit", "atexit", "on_exit", "abort",
    "syscall", "prctl", "seccomp", "unlink", "remove", "rename", "shm_open", "memfd_create", "mq_open", "shmget",
    "shmat", "mprotect", "pkey_mprotect", "mremap", "personality", "setrlimit", "prlimit", "sched_setaffinity",
    "clock_settime", "settimeofday", "process_vm_readv", "process_vm_writev", "pidfd_open", "pidfd_getfd",
    "__libc_dlopen_mode", "__libc_start_main", "longjmp", "siglongjmp",
    /* CUDA beyond launching on the given stream: other processes' memory, host
     * code in the stream, the device's state, other graphs, the capture itself */
    "cudaDeviceReset", "cudaSetDevice", "cudaSetDeviceFlags", "cudaIpcOpenMemHandle", "cudaIpcOpenEventHandle",
    "cudaImportExternalMemory", "cudaHostRegister", "cudaHostAlloc", "cudaMallocHost", "cudaMallocManaged",
    "cudaLaunchHostFunc", "cudaStreamAddCallback", "cudaStreamBeginCapture", "cudaStreamBeginCapture_ptsz",
    "cudaStreamEndCapture", "cudaStreamEndCapture_ptsz", "cudaThreadExchangeStreamCaptureMode", "cudaGraphInstantiate",
    "cudaGraphLaunch", "cudaGraphLaunch_ptsz", "cudaGetDriverEntryPoint", "cuGetProcAddress", "cuGetProcAddress_v2",
    "cuIpcOpenMemHandle", "cuCtxDestroy", "cuCtxDestroy_v2", "cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxReset_v2",
    "cuLaunchHostFunc"};

const char *fk_unsafe_import(const fk_elf *elf) {
  for (int i = 0; i < elf->num_imports; i++)
    for (size_t k = 0; k < sizeof unsafe_names / sizeof *unsafe_names; k++)
      if (strcmp(elf->imports[i], unsafe_names[k]) == 0) return unsafe_names[k];
  return NULL;
}

/* ---- Compiling ------------------------------------------------------------------------------------------- */

static bool has_abi(const char *folder) {
  char path[PATH_MAX];
  return snprintf(path, sizeof path, "%s/fastkernels/abi.h", folder) < (int)sizeof path && access(path, R_OK) == 0;
}

/* include/ in one of the folders above a path. */
static bool search_above(const char *path, char *include, size_t size) {
  char folder[PATH_MAX];
  if (!realpath(path, folder)) return false;
  for (char *slash; (slash = strrchr(folder, '/'));) {
    *slash = '\0';
    if (snprintf(include, size, "%s/include", folder) < (int)size && has_abi(include)) return true;
  }
  return false;
}

static bool is_suffix(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n > m && strcmp(text + n - m, end) == 0;
}

/* The line of the compiler's output that says most. */
static void first_error(const char *log, char *text, size_t size) {
  char line[280];
  bool found = false;
  FILE *f = fopen(log, "r");
  snprintf(text, size, "does not compile");
  while (f && !found && fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = '\0';
    found = strstr(line, "error") != NULL || strstr(line, "undefined") != NULL;
    if (found) snprintf(text, size, "does not compile: %s", line);
  }
  if (f) fclose(f);
}

/* Runs the compiler; 0 when it succeeded. */
static int run_compiler(char *const *arguments, const char *log) {
  posix_spawn_file_actions_t actions;
  pid_t pid;
  int status = -1;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  int error = posix_spawnp(&pid, arguments[0], &actions, NULL, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error) return error;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static fk_status make_folder(fk_candidate *c) {
  const char *temporary = getenv("TMPDIR");
  if (snprintf(c->folder, sizeof c->folder, "%s/fastkernels-XXXXXX", temporary && *temporary ? temporary : "/tmp") <
          (int)sizeof c->folder &&
      mkdtemp(c->folder))
    return FK_OK;
  *c->folder = '\0';
  return fk_fail(FK_ERROR_IO, "%s: cannot make a temporary folder to compile in: %s", c->path, strerror(errno));
}

/* nvcc as the environment names it. */
static void find_nvcc(char *path, size_t size) {
  const char *nvcc = getenv("NVCC"), *home = getenv("CUDA_HOME");
  snprintf(path, size, "%s", nvcc && *nvcc ? nvcc : "nvcc");
  if (nvcc && *nvcc) return;
  char there[PATH_MAX];
  snprintf(there, sizeof there, "%s/bin/nvcc", home && *home ? home : "/usr/local/cuda");
  if (access(there, X_OK) == 0) snprintf(path, size, "%s", there);
}

enum { MAX_COMMAND = 20 };

/* The words of a command line that are made here. */
typedef struct words {
  char compiler[PATH_MAX], target[96], link[PATH_MAX + 32];
} words;

/* 9.0 and 10.0 have instructions of their own, which the name with an "a" unlocks. The runtime is the shared one, so
 * that what a candidate imports of it can be seen. */
static int nvcc_command(const fk_candidate *c, int capability, words *w, const char **arguments) {
  const char *suffix = capability >= 90 ? "a" : "";
  find_nvcc(w->compiler, sizeof w->compiler);
  snprintf(w->target, sizeof w->target, "-gencode=arch=compute_%d%s,code=sm_%d%s", capability, suffix, capability,
           suffix);
  const char *home = getenv("CUDA_HOME");
  snprintf(w->link, sizeof w->link, "-Xlinker=-rpath=%s/lib64", home && *home ? home : "/usr/local/cuda");
  const char *command[] = {w->compiler,      "-O3",   "-std=c++17", w->target, "-shared", "-Xcompiler=-fPIC",
                           "-cudart=shared", w->link, "-o",         c->object, c->path};
  memcpy(arguments, command, sizeof command);
  return (int)(sizeof command / sizeof *command);
}

static int cc_command(const fk_candidate *c, const char **arguments) {
  const char *compiler = getenv("CC");
  const char *command[] = {compiler && *compiler ? compiler : "cc",
                           "-O3",
                           "-march=native",
                           "-fopenmp",
                           "-shared",
                           "-fPIC",
                           "-o",
                           c->object,
                           c->path,
                           "-lm"};
  memcpy(arguments, command, sizeof command);
  return (int)(sizeof command / sizeof *command);
}

static fk_status compile(fk_candidate *c, const char *include, int capability) {
  char found[PATH_MAX], log[300];
  const char *arguments[MAX_COMMAND] = {NULL};
  words w;
  if (!include && (search_above("/proc/self/exe", found, sizeof found) || search_above(c->path, found, sizeof found)))
    include = found;
  FK_TRY(make_folder(c));
  snprintf(log, sizeof log, "%s/log", c->folder);
  snprintf(c->object, sizeof c->object, "%s/candidate.so", c->folder);
  int n = is_suffix(c->path, ".cu") ? nvcc_command(c, capability, &w, arguments) : cc_command(c, arguments);
  if (include) arguments[n++] = "-I", arguments[n++] = include;
  for (int i = 0; i < n; i++) {
    size_t used = strlen(c->build);
    snprintf(c->build + used, sizeof c->build - used, "%s%s", used ? " " : "", arguments[i]);
  }
  int rc = run_compiler((char *const *)arguments, log);
  if (rc == ENOENT)
    snprintf(c->refused, sizeof c->refused, "cannot be compiled: there is no %s", arguments[0]);
  else if (rc != 0)
    first_error(log, c->refused, sizeof c->refused);
  unlink(log);
  return FK_OK;
}

/* ---- Opening --------------------------------------------------------------------------------------------- */

static void list_tasks(const fk_elf *elf, fk_candidate *c) {
  static const char prefix[] = "__tvm_ffi_";
  for (int i = 0; i < elf->num_exports && c->num_tasks < FK_MAX_EXPORTED_TASKS; i++) {
    if (strncmp(elf->exports[i], prefix, sizeof prefix - 1) != 0) continue;
    const fk_task *task = fk_task_find(elf->exports[i] + sizeof prefix - 1);
    if (task) c->tasks[c->num_tasks++] = task;
  }
}

fk_status fk_candidate_open(fk_arena *arena, const char *path, const char *include, int compute_capability,
                            fk_candidate *c) {
  const char *slash = strrchr(path, '/');
  fk_elf elf;
  *c = (fk_candidate){.path = path, .name = slash ? slash + 1 : path};
  if (access(path, R_OK) != 0) return fk_fail(FK_ERROR_NOT_FOUND, "%s: cannot read the candidate", path);
  if (is_suffix(path, ".cu") && compute_capability == 0) {
    snprintf(c->refused, sizeof c->refused, "a CUDA kernel: judge it with --device cuda on a machine with a GPU");
    return FK_OK;
  }
  if (is_suffix(path, ".c") || is_suffix(path, ".cu")) {
    FK_TRY(compile(c, include, compute_capability));
    if (*c->refused) return FK_OK;
  } else {
    char absolute[PATH_MAX];
    if (!realpath(path, absolute) || strlen(absolute) >= sizeof c->object)
      return fk_fail(FK_ERROR_IO, "%s: the path is too long", path);
    memcpy(c->object, absolute, strlen(absolute) + 1);
  }
  if (fk_elf_read(arena, c->object, &elf) != FK_OK) {
    snprintf(c->refused, sizeof c->refused, "%s", fk_last_error());
    return FK_OK;
  }
  list_tasks(&elf, c);
  const char *unsafe = fk_unsafe_import(&elf);
  if (unsafe)
    snprintf(c->refused, sizeof c->refused, "unsafe: it imports %s, which a kernel has no business with", unsafe);
  else if (elf.executable_stack)
    snprintf(c->refused, sizeof c->refused, "unsafe: it asks for an executable stack");
  else if (c->num_tasks == 0)
    snprintf(c->refused, sizeof c->refused, "it exports no __tvm_ffi_<task> of a known task");
  return FK_OK;
}

void fk_candidate_close(fk_candidate *c) {
  if (!*c->folder) return;
  unlink(c->object);
  rmdir(c->folder);
  *c->folder = '\0';
}
