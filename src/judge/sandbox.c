#include "judge/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#define ARCHITECTURE 0
#endif

#define SECCOMP_KILL 0x80000000u /* SECCOMP_RET_KILL_PROCESS; older headers lack it */

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, field))
/* Little-endian: the low word of argument n comes first. */
#define LOAD_ARG(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, args) + 8 * (n))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, action)

static const int forbidden[] = {SYS_execve,
                                SYS_execveat,
                                SYS_socket,
                                SYS_socketpair,
                                SYS_connect,
                                SYS_bind,
                                SYS_listen,
                                SYS_accept,
                                SYS_accept4,
                                SYS_ptrace,
                                SYS_process_vm_readv,
                                SYS_process_vm_writev,
                                SYS_setitimer,
                                SYS_timer_create,
                                SYS_timerfd_create,
                                SYS_signalfd4,
                                SYS_pidfd_open,
                                SYS_pidfd_send_signal,
                                SYS_rt_sigqueueinfo,
                                SYS_rt_tgsigqueueinfo,
                                SYS_unlinkat,
                                SYS_renameat2,
                                SYS_mkdirat,
                                SYS_mknodat,
                                SYS_linkat,
                                SYS_symlinkat,
                                SYS_fchmodat,
                                SYS_fchownat,
                                SYS_truncate,
                                SYS_ftruncate,
                                SYS_fallocate,
                                SYS_mount,
                                SYS_umount2,
                                SYS_chroot,
                                SYS_setns,
                                SYS_unshare,
                                SYS_setrlimit,
                                SYS_memfd_create,
                                SYS_shmget,
                                SYS_shmat,
                                SYS_msgget,
                                SYS_semget,
                                SYS_mq_open,
                                SYS_perf_event_open,
                                SYS_bpf,
                                SYS_userfaultfd,
                                SYS_keyctl,
                                SYS_add_key,
                                SYS_io_uring_setup,
                                SYS_sendto,
                                SYS_sendmmsg,
                                SYS_clock_settime,
                                SYS_settimeofday,
                                SYS_setpgid,
                                SYS_setsid,
#if defined(__x86_64__)
                                SYS_fork,
                                SYS_vfork,
                                SYS_creat,
                                SYS_unlink,
                                SYS_rename,
                                SYS_renameat,
                                SYS_mkdir,
                                SYS_rmdir,
                                SYS_link,
                                SYS_symlink,
                                SYS_chmod,
                                SYS_chown,
                                SYS_signalfd,
                                SYS_alarm
#endif
};

/* Calls that a CUDA driver or a library's cache may make in good faith: they fail, the process lives. */
static bool is_file_call(int number) {
  static const int calls[] = {
    SYS_unlinkat,
    SYS_renameat2,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_fchmodat,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_memfd_create,
#if defined(__x86_64__)
    SYS_unlink,
    SYS_rename,
    SYS_mkdir,
    SYS_chmod
#endif
  };
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (calls[i] == number) return true;
  return false;
}

typedef struct program {
  struct sock_filter code[256];
  unsigned short count;
} program;

static void emit(program *p, struct sock_filter instruction) {
  if (p->count < sizeof p->code / sizeof *p->code) p->code[p->count++] = instruction;
}

/* if (system call == number) return action. */
static void on_call(program *p, int number, uint32_t action) {
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1));
  emit(p, (struct sock_filter)RETURN(action));
}

/* if (system call == number && (argument & mask) has a bit == kill_when_set) return action, else allow. */
static void on_call_bits(program *p, int number, uint32_t arg, uint32_t mask, bool kill_when_set, uint32_t action) {
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4));
  emit(p, (struct sock_filter)LOAD_ARG(arg));
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, mask, kill_when_set ? 0 : 1, kill_when_set ? 1 : 0));
  emit(p, (struct sock_filter)RETURN(action));
  emit(p, (struct sock_filter)RETURN(SECCOMP_RET_ALLOW));
}

/* if (system call == number && argument 0 != value) kill. */
static void on_call_other(program *p, int number, uint32_t value) {
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4));
  emit(p, (struct sock_filter)LOAD_ARG(0));
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
  emit(p, (struct sock_filter)RETURN(SECCOMP_KILL));
  emit(p, (struct sock_filter)RETURN(SECCOMP_RET_ALLOW));
}

/* send(), which is sendto without an address, on sockets that are connected already; sendto is forbidden otherwise. */
static void allow_send(program *p) {
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)SYS_sendto, 0, 6));
  emit(p, (struct sock_filter)LOAD_ARG(4));
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3));
  emit(p, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offsetof(struct seccomp_data, args) + 36));
  emit(p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1));
  emit(p, (struct sock_filter)RETURN(SECCOMP_RET_ALLOW));
  emit(p, (struct sock_filter)RETURN(SECCOMP_KILL));
}

static int install_filter(bool with_gpu, bool with_peers) {
  const uint32_t writing = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND;
  const uint32_t refuse = SECCOMP_RET_ERRNO | ENOSYS;
  const uint32_t on_writing = with_gpu ? SECCOMP_RET_ERRNO | EACCES : SECCOMP_KILL;
  program p = {.count = 0};
  emit(&p, (struct sock_filter)LOAD(arch));
  emit(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0));
  emit(&p, (struct sock_filter)RETURN(SECCOMP_KILL));
  emit(&p, (struct sock_filter)LOAD(nr));
#if defined(__x86_64__)
  /* The x32 numbers would slip past the list. */
  emit(&p, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1));
  emit(&p, (struct sock_filter)RETURN(SECCOMP_KILL));
  on_call_bits(&p, SYS_open, 1, writing, true, on_writing);
#endif
  if (with_peers) allow_send(&p);
  for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
    on_call(&p, forbidden[i], with_gpu && is_file_call(forbidden[i]) ? SECCOMP_RET_ERRNO | EACCES : SECCOMP_KILL);
  /* Their arguments lie in memory, where a filter cannot look: the C library falls back to clone and openat. */
  on_call(&p, SYS_clone3, refuse);
  on_call(&p, SYS_openat2, refuse);
  on_call_bits(&p, SYS_openat, 2, writing, true, on_writing);
  on_call_bits(&p, SYS_prlimit64, 2, 0xffffffffu, true, SECCOMP_KILL); /* reading a limit is fine */
  on_call_bits(&p, SYS_clone, 0, CLONE_THREAD, false, SECCOMP_KILL);
  on_call_other(&p, SYS_kill, (uint32_t)getpid());
  on_call_other(&p, SYS_tgkill, (uint32_t)getpid());
  on_call(&p, SYS_tkill, SECCOMP_KILL);
  emit(&p, (struct sock_filter)RETURN(SECCOMP_RET_ALLOW));
  struct sock_fprog filter = {p.count, p.code};
  if (ARCHITECTURE == 0 || p.count == sizeof p.code / sizeof *p.code) return -1;
  /* All threads: the OpenMP pool exists by now, and the candidate will run on it. */
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter) == 0 ? 0 : -1;
}

static void add(char *missing, size_t size, const char *what) {
  size_t used = strlen(missing);
  if (used < size) snprintf(missing + used, size - used, "%s%s", used ? ", " : "", what);
}

static void limit(int resource, uint64_t value, const char *name, char *missing, size_t size) {
  struct rlimit r = {value, value};
  if (setrlimit(resource, &r) != 0) add(missing, size, name);
}

void fk_sandbox_enter(uint64_t memory_bytes, uint64_t cpu_seconds, bool with_gpu, bool with_peers, char *missing,
                      size_t size) {
  *missing = '\0';
  limit(RLIMIT_CORE, 0, "core limit", missing, size);
  limit(RLIMIT_FSIZE, 0, "file size limit", missing, size);
  if (cpu_seconds > 0) limit(RLIMIT_CPU, cpu_seconds, "processor time limit", missing, size);
#if defined(__SANITIZE_ADDRESS__)
  (void)memory_bytes;
  add(missing, size, "memory limit (AddressSanitizer needs terabytes of address space)");
#else
  if (with_gpu)
    add(missing, size, "memory limit (the CUDA driver reserves terabytes of addresses)");
  else if (memory_bytes > 0)
    limit(RLIMIT_AS, memory_bytes, "memory limit", missing, size);
#endif
  if (prctl(PR_SET_DUMPABLE, 0) != 0) add(missing, size, "not dumpable");
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) add(missing, size, "no new privileges");
  if (install_filter(with_gpu, with_peers) != 0) add(missing, size, "system call filter");
}
