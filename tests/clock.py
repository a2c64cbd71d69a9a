"""A wall clock that jumps, for programs that tests start."""

import subprocess
from pathlib import Path

CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <sys/time.h>
/* The wall clock jumps by what a file says; the monotonic clock does not. */
static long jump(void) {
  FILE *f = fopen(getenv("JUMP_FILE"), "r");
  long s = 0;
  if (f) { if (fscanf(f, "%ld", &s) != 1) s = 0; fclose(f); }
  return s;
}
int clock_gettime(clockid_t id, struct timespec *t) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int r = real(id, t);
  if (!r && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += jump();
  return r;
}
"""


def jumping_clock(folder: Path) -> tuple[Path, dict[str, str]]:
    """The file that says by how many seconds it jumps, and the environment of a program that is to see it."""
    source, library, jump = folder / "clock.c", folder / "clock.so", folder / "jump"
    source.write_text(CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
    jump.write_text("0")
    return jump, {"LD_PRELOAD": str(library), "JUMP_FILE": str(jump)}
