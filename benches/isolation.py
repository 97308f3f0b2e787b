#!/usr/bin/env python3
"""What the rungs of isolation cost: the same RUN under each, in turn, in one run; medians and ratios to `userns`.

  benches/isolation.py --rbuild target/release/rbuild [--rungs userns,one-id,ptrace] [--only apt,compile,stat] [-n 3]
                       [--user NAME] [--base debian:bookworm] [--registry-mirror URL] [--no-proot]

As root with --user it runs everything as that user, who needs subordinate ids for `userns`. The base must be a Debian
with apt; what a RUN needs is installed before it is timed. Timed is the step itself, from its start to its end in the
events of the build: not the pull, the commit or the start of rbuild. PRoot (Debian's `proot -0`) runs the same command
in the same files, copied out of the image.
"""
import argparse
import json
import os
import pwd
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = (
    "bc bsdextrautils bzip2 cpio dc diffutils ed file flex gawk gettext-base groff-base hostname less libmagic1 lsof m4 "
    "man-db mawk moreutils ncurses-term netbase nano patch pax pigz procps psmisc rsync screen sed sharutils socat sqlite3 "
    "strace time tree unzip wget xz-utils zip zstd"
)

GENERATE = r"""
import os
os.makedirs('/src', exist_ok=True)
for i in range(300):
    with open(f'/src/f{i}.c', 'w') as f:
        f.write('#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <errno.h>\n')
        for j in range(20):
            f.write(f'int f{i}_{j}(int x) {{ char b[64]; snprintf(b, sizeof b, "%d", x + {j}); return (int)strlen(b) + atoi(b); }}\n')
with open('/src/main.c', 'w') as f:
    f.write(''.join(f'int f{i}_0(int);\n' for i in range(300)))
    f.write('int main(void) { int s = 0;\n' + ''.join(f's += f{i}_0({i});\n' for i in range(300)) + 'return s == 0; }\n')
with open('/src/Makefile', 'w') as f:
    f.write('OBJS = main.o ' + ' '.join(f'f{i}.o' for i in range(300)) + '\nall: $(OBJS)\n\t$(CC) -o prog $(OBJS)\n')
"""

TREE = r"""
import os
for i in range(1000):
    os.makedirs(f'/tree/a{i % 10}/b{i // 10 % 10}/c{i}')
    for j in range(100):
        open(f'/tree/a{i % 10}/b{i // 10 % 10}/c{i}/f{j}', 'w').close()
"""

# Name: (preparation, what is timed).
WORKLOADS = {
    "apt": (
        f"RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends --download-only {PACKAGES}\n",
        f"apt-get install -y -qq --no-install-recommends --no-download {PACKAGES} >/dev/null 2>&1",
    ),
    "compile": (
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev make python3-minimal >/dev/null 2>&1\n"
        "COPY generate.py /\nRUN python3 /generate.py\n",
        "cd /src && make -s -j2 && ./prog",
    ),
    "stat": (
        "RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-minimal >/dev/null 2>&1\n"
        "COPY tree.py /\nRUN python3 /tree.py\n",
        "find / -xdev -print0 | xargs -0 stat >/dev/null",
    ),
}

RUNGS = {"userns": ["--isolation=userns"], "one-id": ["--isolation=userns"], "ptrace": ["--isolation=ptrace"], "chroot": ["--isolation=chroot"]}


class Bench:
    def __init__(self, options):
        self.options = options
        self.dir = Path(tempfile.mkdtemp(prefix="rbuild-isolation-", dir="/tmp"))
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(self.dir), "LC_ALL": "C.UTF-8"}
        self.become = []
        if options.user and os.getuid() == 0:
            user = pwd.getpwnam(options.user)
            self.become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            os.chown(self.dir, user.pw_uid, user.pw_gid)
        self.dir.chmod(0o755)

    def run(self, command, **more):
        return subprocess.run(self.become + command, env=self.env, **more)

    def context(self, name, prepare, timed):
        context = self.dir / f"{name}-context"
        context.mkdir()
        (context / "generate.py").write_text(GENERATE)
        (context / "tree.py").write_text(TREE)
        (context / "Dockerfile").write_text(f"FROM {self.options.base} AS prepared\n{prepare}FROM prepared AS timed\nRUN {timed}\n")
        return context

    def rbuild(self, rung, context, *more):
        # A rung has a store of its own: how owners are kept differs.
        command = [self.options.rbuild, "build", "--root", str(self.dir / f"store-{rung}"), *RUNGS[rung], *more]
        if rung == "one-id":
            # no_new_privs takes newuidmap away.
            command = ["setpriv", "--no-new-privs", *command]
        if self.options.registry_mirror:
            command += ["--registry-mirror", self.options.registry_mirror]
        return command + ["--network=host", str(context)]

    def timed(self, rung, context):
        """Seconds of the last RUN, and the memory of the largest process in MB."""
        done = self.run(self.rbuild(rung, context, "--no-cache-filter=timed", "--log-format=events"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if done.returncode:
            sys.exit(f"{rung}: {done.stderr.decode()[-2000:]}\n{done.stdout.decode()[-2000:]}")
        started, ended, run = {}, {}, None
        for line in done.stdout.splitlines():
            event = json.loads(line)
            if event["event"] == "step_declared" and event["kind"].get("instruction") == "RUN":
                run = event["id"]
            if event["event"] == "step_started":
                started[event["step"]] = event["at"]
            if event["event"] == "step_done":
                ended[event["step"]] = event["at"]
            if event["event"] == "step_done" and event["step"] == run and event["cached"]:
                sys.exit(f"{rung}: the step that is timed was taken from the cache")
        return (ended[run] - started[run]) / 1e9

    def proot(self, name, timed):
        """Seconds of the same command under PRoot, in a fresh copy of the files."""
        files, copy = self.dir / f"{name}-files", self.dir / "copy"
        self.run(["rm", "-rf", str(copy)], check=True)
        self.run(["cp", "-a", str(files), str(copy)], check=True)
        binds = [word for path in ("/proc", "/dev", "/sys", "/etc/resolv.conf") for word in ("-b", path)]
        begun = time.monotonic()
        done = self.run(["proot", "-0", "-r", str(copy), *binds, "-w", "/", "/bin/sh", "-c", timed], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        seconds = time.monotonic() - begun
        if done.returncode:
            print(f"  proot fails: {done.stderr.decode()[-300:]}", file=sys.stderr)
        return seconds

    def export(self, name, rung, context):
        files = self.dir / f"{name}-files"
        archive = self.dir / f"{name}.tar"
        self.run(self.rbuild(rung, context, "--target=prepared", "-q", "-o", f"type=tar,dest={archive}"), check=True, stdout=subprocess.DEVNULL)
        self.run(["mkdir", str(files)], check=True)
        # Devices and foreign owners are PRoot's business.
        self.run(["tar", "-xf", str(archive), "-C", str(files), "--no-same-owner", "--exclude=dev/*"], check=False, stderr=subprocess.DEVNULL)
        archive.unlink()

    def close(self):
        for store in self.dir.glob("store-*"):
            self.run([self.options.rbuild, "prune", "--all", "--force", "--root", str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.run(["chmod", "-R", "u+rwX", str(self.dir)], stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rbuild", required=True)
    parser.add_argument("--rungs", default="userns,one-id,ptrace")
    parser.add_argument("--only", default=",".join(WORKLOADS))
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--user")
    parser.add_argument("--base", default="debian:bookworm")
    parser.add_argument("--registry-mirror")
    parser.add_argument("--no-proot", action="store_true")
    options = parser.parse_args()
    options.rbuild = str(Path(options.rbuild).resolve())
    bench = Bench(options)
    rungs = options.rungs.split(",")
    try:
        for name in options.only.split(","):
            prepare, timed = WORKLOADS[name]
            context = bench.context(name, prepare, timed)
            for rung in rungs:
                bench.run(bench.rbuild(rung, context, "--target=prepared", "-q"), check=True, stdout=subprocess.DEVNULL)
            seconds = {rung: [] for rung in rungs}
            if not options.no_proot:
                bench.export(name, rungs[0], context)
                seconds["proot"] = []
            for _ in range(options.n):
                for rung in seconds:
                    seconds[rung].append(bench.proot(name, timed) if rung == "proot" else bench.timed(rung, context))
            medians = {rung: statistics.median(values) for rung, values in seconds.items()}
            native = medians[rungs[0]]
            row = "  ".join(f"{rung} {median:.2f}s ({median / native:.2f}x)" for rung, median in medians.items())
            print(f"{name:8} {row}", flush=True)
    finally:
        bench.close()


if __name__ == "__main__":
    main()
