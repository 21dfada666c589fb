#include "judge/session.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 65536 };

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

uint64_t fk_flush_bytes(const char **what) {
  long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE), l3 = sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (l3 > 0 && l3 <= 64L << 20) {
    *what = "2 x L3";
    return 2 * (uint64_t)l3;
  }
  *what = l2 > 0 ? "4 x L2" : "8 MiB (cache sizes unknown)";
  return l2 > 0 ? 4 * (uint64_t)l2 : 8u << 20;
}

/* ---- Starting -------------------------------------------------------------------------------------------- */

static void write_header(fk_shared_header *h, const fk_plan *plan, const char *candidate, const fk_limits *limits,
                         const fk_group *group) {
  fk_frame frame;
  fk_plan_frame(plan, NULL, &frame);
  snprintf(h->task, sizeof h->task, "%s", plan->task->name);
  snprintf(h->candidate, sizeof h->candidate, "%s", candidate ? candidate : "");
  h->num_args = plan->task->num_args;
  h->threads = limits->threads;
  h->flush_bytes = limits->flush_bytes;
  h->backend = (int32_t)limits->backend;
  h->device_id = limits->devices[group->rank];
  h->rank = group->rank;
  h->world_size = group->world_size;
  h->comm_arg = group->comm_arg;
  memcpy(h->group, group->id, sizeof h->group);
  if (limits->memory_bytes) h->memory_bytes = limits->memory_bytes + h->size + limits->flush_bytes;
  /* A backstop behind the wall clock, in case the grader itself is gone. */
  h->cpu_seconds = (uint64_t)(limits->timeout_seconds * (limits->threads > 0 ? limits->threads : 1)) * 100 + 600;
  for (int i = 0; i < plan->task->num_args; i++) {
    const fk_plan_tensor *t = &plan->tensors[i];
    fk_shared_tensor *s = &h->tensors[i];
    if (!fk_arg_is_tensor(&plan->task->args[i])) h->attributes[i] = frame.args[i];
    s->given = t->given;
    s->type = t->type;
    s->ndim = t->ndim;
    s->data = t->data;
    memcpy(s->shape, t->shape, sizeof s->shape);
    memcpy(s->strides, t->strides, sizeof s->strides);
  }
}

static int make_shared(fk_session *s, const fk_plan *plan, const char *candidate, const fk_limits *limits,
                       const fk_group *group) {
  uint64_t buffer = (sizeof(fk_shared_header) + PAGE - 1) / PAGE * PAGE;
  s->size = (buffer + plan->bytes + PAGE) / PAGE * PAGE;
  int fd = memfd_create("fastkernels", MFD_CLOEXEC);
  if (fd < 0) return -1;
  if (ftruncate(fd, (off_t)s->size) == 0) s->shared = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (!s->shared || s->shared == MAP_FAILED) {
    s->shared = NULL;
    close(fd);
    return -1;
  }
  fk_shared_header *h = (fk_shared_header *)s->shared;
  h->magic = FK_SHARED_MAGIC;
  h->size = s->size;
  h->buffer = buffer;
  h->length = plan->bytes;
  write_header(h, plan, candidate, limits, group);
  s->buffer = s->shared + buffer;
  return fd;
}

enum { MAX_ENVIRONMENT = 16 };

/* The runner's environment: threads, and what the dynamic linker, the choice of instruction set and CUDA need. */
static void make_environment(char text[MAX_ENVIRONMENT][512], char *environment[MAX_ENVIRONMENT + 1], int threads) {
  static const char *const kept[] = {"FASTKERNELS_ISA",
                                     "FASTKERNELS_CACHE",
                                     "LD_LIBRARY_PATH",
                                     "ASAN_OPTIONS",
                                     "UBSAN_OPTIONS",
                                     "CUDA_HOME",
                                     "HOME",
                                     "XDG_CACHE_HOME",
                                     "NCCL_SOCKET_IFNAME",
                                     "CUDA_VISIBLE_DEVICES",
                                     "NVIDIA_VISIBLE_DEVICES"};
  int n = 0;
  snprintf(text[n], 512, "OMP_NUM_THREADS=%d", threads);
  environment[n] = text[n], n++;
  snprintf(text[n], 512, "OMP_PROC_BIND=true"); /* a thread that is moved costs a scheduler slice, 16 ms */
  environment[n] = text[n], n++;
  snprintf(text[n], 512, "OPENBLAS_NUM_THREADS=%d", threads);
  environment[n] = text[n], n++;
  for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
    const char *value = getenv(kept[i]);
    if (!value || strlen(value) > 480) continue;
    snprintf(text[n], 512, "%s=%s", kept[i], value);
    environment[n] = text[n], n++;
  }
  environment[n] = NULL;
}

static int spawn(fk_session *s, int memory, int socket, int threads) {
  char text[MAX_ENVIRONMENT][512], *environment[MAX_ENVIRONMENT + 1];
  char *arguments[] = {"fastkernels", "__runner", NULL};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  make_environment(text, environment, threads);
  /* dup2 onto 3 and 4 must not overwrite a source: move both out of the way first. */
  int high_memory = fcntl(memory, F_DUPFD_CLOEXEC, 16), high_socket = fcntl(socket, F_DUPFD_CLOEXEC, 16);
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_init(&attributes);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, high_memory, FK_RUNNER_MEMORY_FD);
  posix_spawn_file_actions_adddup2(&actions, high_socket, FK_RUNNER_SOCKET_FD);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  int error = posix_spawn(&s->pid, "/proc/self/exe", &actions, &attributes, arguments, environment);
  if (error) s->pid = 0;
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  close(high_memory);
  close(high_socket);
  return error;
}

/* ---- Exchanges ------------------------------------------------------------------------------------------- */

/* Waits for the process, which has hung up, and says how it died. */
static fk_outcome died(fk_session *s) {
  int status = 0;
  for (int i = 0; i < 200 && waitpid(s->pid, &status, WNOHANG) == 0; i++) {
    if (i == 199) {
      kill(-s->pid, SIGKILL);
      waitpid(s->pid, &status, 0);
    }
    usleep(5000);
  }
  kill(-s->pid, SIGKILL);
  s->pid = 0;
  int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  if (signal == SIGSYS) {
    snprintf(s->reason, sizeof s->reason, "killed: it made a system call that the sandbox forbids");
    return FK_REFUSED;
  }
  if (signal)
    snprintf(s->reason, sizeof s->reason, "killed by signal %d (%s)", signal, strsignal(signal));
  else
    snprintf(s->reason, sizeof s->reason, "exited with status %d in the middle of a call", WEXITSTATUS(status));
  return signal == SIGXCPU ? FK_TIMED_OUT : FK_CRASHED;
}

static fk_outcome receive(fk_session *s, fk_message *m, double seconds) {
  int64_t deadline = now() + (int64_t)(seconds * 1e9);
  for (;;) {
    int64_t left = deadline - now();
    struct pollfd p = {s->socket, POLLIN, 0};
    int ready = left > 0 ? poll(&p, 1, (int)(left / 1000000) + 1) : 0;
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      snprintf(s->reason, sizeof s->reason, "no answer within %g s", seconds);
      kill(-s->pid, SIGKILL);
      waitpid(s->pid, NULL, 0);
      s->pid = 0;
      return FK_TIMED_OUT;
    }
    ssize_t n = recv(s->socket, m, sizeof *m, MSG_DONTWAIT);
    if (n == (ssize_t)sizeof *m) break;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    return died(s);
  }
  m->text[sizeof m->text - 1] = '\0';
  for (char *c = m->text; *c; c++)
    if ((unsigned char)*c < 32 || *c == 127) *c = ' '; /* it will be printed on a terminal */
  return FK_RAN;
}

void fk_session_stop(const fk_session *s) {
  if (s->pid > 0) kill(-s->pid, SIGSTOP);
}

fk_outcome fk_session_post(fk_session *s, uint32_t kind) {
  fk_message request = {.kind = kind};
  if (s->pid == 0) return FK_CRASHED;
  if (getrandom(&request.nonce, sizeof request.nonce, 0) != sizeof request.nonce) return FK_CRASHED;
  s->nonce = request.nonce;
  kill(-s->pid, SIGCONT);
  return send(s->socket, &request, sizeof request, MSG_NOSIGNAL) == (ssize_t)sizeof request ? FK_RAN : died(s);
}

/* The first message: it is loaded, or why not. */
static fk_outcome greeted(fk_session *s, const fk_message *m) {
  if (m->kind != FK_MESSAGE_READY) {
    snprintf(s->reason, sizeof s->reason, "%s", m->text);
    return FK_REFUSED;
  }
  snprintf(s->missing, sizeof s->missing, "%s", m->text);
  s->empty_ns = m->nanoseconds;
  return FK_RAN;
}

fk_outcome fk_session_take(fk_session *s, uint32_t kind, double seconds, fk_message *m) {
  fk_outcome outcome = receive(s, m, seconds);
  if (outcome != FK_RAN) return outcome;
  if (kind == FK_MESSAGE_READY) return greeted(s, m);
  if (m->kind != kind || m->nonce != s->nonce) {
    snprintf(s->reason, sizeof s->reason, "the runner's answer was forged or out of turn");
    return FK_REFUSED;
  }
  if (kind != FK_MESSAGE_DONE) return FK_RAN;
  snprintf(s->by, sizeof s->by, "%s", m->rc == 0 ? m->text : "");
  if (m->rc == 0) return FK_RAN;
  snprintf(s->reason, sizeof s->reason, "%s", m->text);
  fk_session_stop(s);
  return FK_FAILED;
}

fk_outcome fk_session_start(fk_session *s, const fk_plan *plan, const char *candidate, const fk_limits *limits,
                            const fk_group *group) {
  int sockets[2];
  *s = (fk_session){.socket = -1, .timeout_seconds = limits->timeout_seconds, .on_gpu = limits->backend == FK_CUDA};
  int memory = make_shared(s, plan, candidate, limits, group);
  if (memory < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
    snprintf(s->reason, sizeof s->reason, "cannot make the channel to a runner: %s", strerror(errno));
    if (memory >= 0) close(memory);
    return FK_REFUSED;
  }
  int error = spawn(s, memory, sockets[1], limits->threads);
  close(memory);
  close(sockets[1]);
  s->socket = sockets[0];
  if (!error) return FK_RAN;
  snprintf(s->reason, sizeof s->reason, "cannot start a runner: %s", strerror(error));
  return FK_REFUSED;
}

void fk_session_kill(fk_session *s) {
  if (s->pid > 0) {
    kill(-s->pid, SIGKILL);
    waitpid(s->pid, NULL, 0);
  }
  s->pid = 0;
}

void fk_session_end(fk_session *s) {
  fk_session_kill(s);
  if (s->socket >= 0) close(s->socket);
  if (s->shared) munmap(s->shared, s->size);
  *s = (fk_session){.socket = -1};
}
