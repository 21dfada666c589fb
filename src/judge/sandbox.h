/* Sandbox: what a process that is about to load a stranger's code gives up for ever.
 *
 * Limits on address space, processor time, file size and core dumps; no new privileges; not traceable; a system call
 * filter that kills the process on starting programs or processes, sockets, tracing, signals to others, timers, opening
 * files for writing, and changing the file system. It does not hide readable files and does not stop a candidate from
 * lying about its own time: the grader's clock and fresh data are for that. */
#ifndef FK_JUDGE_SANDBOX_H
#define FK_JUDGE_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Enters the sandbox. What the kernel refuses is written to missing ("" when all holds), comma-separated. with_gpu: the
 * process holds a CUDA context, whose driver reserves terabytes of addresses (no limit on them then) and may try to
 * open devices and files for writing (refused with an error then, not by death). with_peers: it computes with other
 * processes, over sockets that are connected by now; it may send on those. */
void fk_sandbox_enter(uint64_t memory_bytes, uint64_t cpu_seconds, bool with_gpu, bool with_peers, char *missing,
                      size_t size);

#endif
