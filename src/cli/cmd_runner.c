/* fastkernels __runner: the sandboxed half of bench, started by bench and by nobody else. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"
#include "judge/protocol.h"

int fk_cmd_runner(int argc, char **argv) {
  (void)argv;
  if (argc != 1 || fcntl(FK_RUNNER_SOCKET_FD, F_GETFD) < 0 || fcntl(FK_RUNNER_MEMORY_FD, F_GETFD) < 0) {
    fputs("fastkernels __runner: started by `fastkernels bench` only\n", stderr);
    return 2;
  }
  /* No destructors: they could belong to the candidate. */
  _exit(fk_runner_main());
}
