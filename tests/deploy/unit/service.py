"""Starts a service as systemd would where it is process 1: with the restrictions that its unit file asks for, and no others.

    service.py UNIT --root DIRECTORY [--binary FILE] [--uid N] [--set KEY=VALUE]... [--without @GROUP]...

DIRECTORY holds what lies around the service: `etc/` (its configuration directory), `credentials/` and `state/`. They stand where the unit
says, FILE in the place of the program that the unit starts, and ExecStart= is run as it is written. A key of the unit that is neither
brought about here nor known to restrict nothing is an error: a new line in the unit cannot go untested. It needs to be root, the Python
binding of libseccomp and systemd-analyze. `--set` and `--without` spoil the unit: to see what it gives, and that it is needed.
"""

import argparse
import contextlib
import ctypes
import errno
import glob
import os
import resource
import shlex
import shutil
import subprocess
import sys

import seccomp

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38

# What does not restrict a process that runs already, is process 1's own business, or is asked about elsewhere.
WITHOUT_EFFECT_HERE = {
    "Type", "NotifyAccess", "ExecReload", "Restart", "RestartSec", "TimeoutStartSec", "TimeoutStopSec", "WatchdogSec", "OOMPolicy",
    # Nobody inherits a key here, and every call for keys is filtered.
    "KeyringMode",
    # After the service has ended.
    "RemoveIPC",
    # A device cgroup: there are no other devices in the service's /dev, and it cannot make any.
    "DevicePolicy",
}

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    converted = [value.encode() if isinstance(value, str) else value for value in arguments]
    converted = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in converted]
    if getattr(libc, name)(*converted) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, options=None):
    call("mount", source, target, kind, flags, options)


class Unit:
    """[Service] of a unit file: each key with its values, an empty one of which forgets those before."""

    def __init__(self, path):
        self.values = {}
        self.used = set()
        section = None
        with open(path, encoding="utf-8") as file:
            for line in file.read().replace("\\\n", " ").splitlines():
                line = line.strip()
                if not line or line[0] in "#;":
                    continue
                if line.startswith("["):
                    section = line
                elif section == "[Service]":
                    key, _, value = line.partition("=")
                    self.set(key.strip(), value.strip())

    def set(self, key, value):
        values = self.values.setdefault(key, [])
        if value:
            values.append(value)
        else:
            values.clear()

    def all(self, key):
        self.used.add(key)
        return self.values.get(key, [])

    def last(self, key, default=None):
        values = self.all(key)
        return values[-1] if values else default

    def is_on(self, key):
        return self.last(key, "no") in ("yes", "true", "on", "1")

    def words(self, key):
        return " ".join(self.all(key)).split()

    def check(self):
        unknown = set(self.values) - self.used - WITHOUT_EFFECT_HERE
        if unknown:
            sys.exit(f"service.py does not know what these do: {', '.join(sorted(unknown))}")


def octal(text):
    return int(text, 8)


def size(text):
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1])
    return int(text[:-1]) * factor if factor else int(text)


# ---- files -----------------------------------------------------------------------------------------------------------------------


def directory_of(name):
    """A place to mount on, which may be there only here: what is above it is laid over."""
    os.makedirs(name, exist_ok=True)
    return name


def lay_over(path, scratch):
    """Lets things be made in `path` that the machine does not see."""
    upper, work = (directory_of(f"{scratch}/{path.strip('/').replace('/', '-')}-{part}") for part in ("upper", "work"))
    mount("overlay", path, "overlay", 0, f"lowerdir={path},upperdir={upper},workdir={work}")


def bind(source, target):
    mount(source, target, None, MS_BIND | MS_REC)


def files(unit, name, root, binary, uid):
    """Mounts everything as the service is to see it; answers its environment and what it may write."""
    flags = CLONE_NEWNS
    if unit.is_on("PrivateIPC"):
        flags |= CLONE_NEWIPC
    if unit.is_on("ProtectHostname"):
        flags |= CLONE_NEWUTS
    unit.is_on("PrivateMounts")
    call("unshare", flags)
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    # Held, as what is above them may be covered.
    hold = lambda path: f"/proc/self/fd/{os.open(path, os.O_PATH)}"
    around, program = hold(root), hold(binary)
    notify = os.environ.get("NOTIFY_SOCKET")
    socket = hold(os.path.dirname(notify)) if notify else None
    scratch = "/mnt"
    mount("tmpfs", scratch, "tmpfs", 0, "mode=0755")
    for path in ("/etc", "/run", "/usr/bin", "/var/lib"):
        lay_over(path, scratch)
    environment, writable = {}, set()

    # The program, and what systemd makes for it.
    started = shlex.split(unit.last("ExecStart"))[0]
    open(started, "w", encoding="utf-8").close()
    bind(program, started)
    configuration = unit.words("ConfigurationDirectory")
    for directory in configuration:
        directory_of(f"/etc/{directory}")
    bind(f"{around}/etc", f"/etc/{configuration[0]}")
    environment["CONFIGURATION_DIRECTORY"] = ":".join(f"/etc/{directory}" for directory in configuration)
    state = unit.last("StateDirectory")
    os.chmod(f"{around}/state", octal(unit.last("StateDirectoryMode", "0755")))
    bind(f"{around}/state", directory_of(f"/var/lib/{state}"))
    environment["STATE_DIRECTORY"] = f"/var/lib/{state}"
    writable.add(f"/var/lib/{state}")
    credentials = directory_of(f"/run/credentials/{name}")
    mount("ramfs", credentials, "ramfs", MS_NODEV | MS_NOEXEC | MS_NOSUID, "mode=0700")
    for load in unit.all("LoadCredential"):
        identifier, _, source = load.partition(":")
        # A directory's files, each with the directory's name before its own.
        source = f"{around}/credentials" if source == f"/etc/{configuration[0]}/credentials" else source
        for file in os.listdir(source):
            if not file.startswith("."):
                shutil.copyfile(f"{source}/{file}", f"{credentials}/{identifier}_{file}")
                os.chown(f"{credentials}/{identifier}_{file}", uid, 0)
                os.chmod(f"{credentials}/{identifier}_{file}", 0o400)
    os.chown(credentials, uid, 0)
    os.chmod(credentials, 0o500)
    environment["CREDENTIALS_DIRECTORY"] = credentials

    hidden = []
    if unit.is_on("ProtectHome"):
        hidden += ["/home", "/root", "/run/user"]
    if unit.is_on("ProtectKernelModules"):
        hidden += ["/usr/lib/modules"]
    for path in filter(os.path.isdir, hidden):
        mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NODEV | MS_NOEXEC | MS_NOSUID, "mode=0000")
    if unit.is_on("PrivateTmp"):
        for path in ("/tmp", "/var/tmp"):
            mount("tmpfs", path, "tmpfs", MS_NODEV | MS_NOSUID, "mode=1777")
            writable.add(path)
    if notify:
        bind(socket, directory_of("/run/systemd-of-a-test"))
        environment["NOTIFY_SOCKET"] = f"/run/systemd-of-a-test/{os.path.basename(notify)}"
    if unit.is_on("PrivateDevices"):
        devices = ("null", "zero", "full", "random", "urandom", "tty")
        mount("tmpfs", directory_of("/run/dev-of-a-test"), "tmpfs", MS_NOSUID, "mode=0755")
        for device in devices:
            open(f"/run/dev-of-a-test/{device}", "w", encoding="utf-8").close()
            bind(f"/dev/{device}", f"/run/dev-of-a-test/{device}")
        bind("/run/dev-of-a-test", "/dev")
        mount("tmpfs", directory_of("/dev/shm"), "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        writable.add("/dev/shm")
    options = {"invisible": "hidepid=invisible", "default": None}[unit.last("ProtectProc", "default")]
    if unit.last("ProcSubset", "all") == "pid":
        options = f"{options},subset=pid" if options else "subset=pid"
    mount("proc", "/proc", "proc", MS_NODEV | MS_NOEXEC | MS_NOSUID, options)
    writable.add("/proc")
    if unit.is_on("ProtectKernelTunables") and os.path.isdir("/proc/sys"):
        bind("/proc/sys", "/proc/sys")
    if unit.is_on("ProtectKernelLogs") and os.path.exists("/proc/kmsg"):
        bind("/dev/null", "/proc/kmsg")

    strict = unit.last("ProtectSystem") == "strict"
    for point in mounts():
        below = lambda *roots: any(point == path or point.startswith(path + "/") for path in roots)
        read_only = strict and point not in writable and not below("/dev", "/proc", "/sys")
        read_only |= unit.is_on("PrivateDevices") and point == "/dev"
        read_only |= unit.is_on("ProtectKernelTunables") and below("/proc/sys", "/sys")
        read_only |= unit.is_on("ProtectControlGroups") and below("/sys/fs/cgroup")
        # The credentials and the program's own file are read-only in any case.
        read_only |= point in (credentials, started)
        if read_only:
            mount("none", point, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    return environment


def mounts():
    """Each place once, what is above before what is below."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        points = [line.split()[4].encode().decode("unicode_escape") for line in file]
    return [point for point in dict.fromkeys(sorted(points)) if os.path.lexists(point)]


# ---- limits ----------------------------------------------------------------------------------------------------------------------


def limits(unit):
    # Not all who are root may raise it.
    files_max = min(int(unit.last("LimitNOFILE")), resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    core = int(unit.last("LimitCORE"))
    resource.setrlimit(resource.RLIMIT_CORE, (core, core))
    group = f"service-of-a-test-{os.getpid()}"
    for old in glob.glob("/sys/fs/cgroup/service-of-a-test-*") + glob.glob("/sys/fs/cgroup/*/service-of-a-test-*"):
        with contextlib.suppress(OSError):
            os.rmdir(old)
    whole = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    for controller, file, value in (
        ("memory", "memory.max" if whole else "memory.limit_in_bytes", size(unit.last("MemoryMax"))),
        ("pids", "pids.max", int(unit.last("TasksMax"))),
    ):
        folder = directory_of(f"/sys/fs/cgroup/{group}" if whole else f"/sys/fs/cgroup/{controller}/{group}")
        with open(f"{folder}/{file}", "w", encoding="utf-8") as limit:
            limit.write(str(value))
        with open(f"{folder}/cgroup.procs", "w", encoding="utf-8") as members:
            members.write(str(os.getpid()))


# ---- system calls ----------------------------------------------------------------------------------------------------------------


def group(name, seen=()):
    """The names of a group of system calls, as this machine's systemd has it."""
    if not name.startswith("@"):
        return {name}
    said = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True).stdout
    names = [line.strip() for line in said.splitlines()[1:]]
    return set().union(*(group(each, seen + (name,)) for each in names if each and each[0] != "#" and each not in seen))


def allowed(unit, without):
    names = set()
    for number, line in enumerate(unit.all("SystemCallFilter")):
        if number == 0 and line.startswith("~"):
            sys.exit("service.py knows lists of what is allowed only")
        listed = set().union(*(group(word) for word in line.lstrip("~").split()))
        names = names - listed if line.startswith("~") else names | listed
    # As systemd.exec(5) says: these are part of every list of what is allowed.
    names |= {"execve", "exit", "exit_group", "getrlimit", "rt_sigreturn", "sigreturn"} | group("@default")
    return names - set().union(*(group(each) for each in without))


def mask(value):
    return seccomp.Arg(0, seccomp.MASKED_EQ, value, value)


def system_calls(unit, without):
    """Filters, loaded last of all. What systemd does not know is answered with ENOSYS, as there is a fallback for that."""
    refused = seccomp.ERRNO(getattr(errno, unit.last("SystemCallErrorNumber")))
    if unit.last("SystemCallArchitectures") != "native":
        sys.exit("service.py knows the native architecture only")
    names = allowed(unit, without)
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.ENOSYS))
    # A call of the other architectures of this machine ends the process, as it does there.
    known = group("@known") | names
    number = {each: seccomp.resolve_syscall(seccomp.Arch(), each) for each in known}
    # Negative: of another architecture, or of a newer kernel than the library knows.
    number = {each: found for each, found in number.items() if found >= 0}

    limited = {}  # name -> (what is refused with what, the condition)

    def limit(name, action, *conditions):
        limited.setdefault(name, []).append((action, conditions))

    eperm, enosys = seccomp.ERRNO(errno.EPERM), seccomp.ERRNO(errno.ENOSYS)
    families = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}
    wanted = unit.words("RestrictAddressFamilies")
    if wanted:
        wanted = {families[each] for each in wanted}
        no_family = seccomp.ERRNO(errno.EAFNOSUPPORT)
        for each in range(max(wanted) + 1):
            if each not in wanted:
                limit("socket", no_family, seccomp.Arg(0, seccomp.EQ, each))
        limit("socket", no_family, seccomp.Arg(0, seccomp.GT, max(wanted)))
    if unit.is_on("MemoryDenyWriteExecute"):
        limit("mmap", eperm, seccomp.Arg(2, seccomp.MASKED_EQ, 6, 6))
        for name in ("mprotect", "pkey_mprotect"):
            limit(name, eperm, seccomp.Arg(2, seccomp.MASKED_EQ, 4, 4))
        limit("shmat", eperm, seccomp.Arg(2, seccomp.MASKED_EQ, 0o100000, 0o100000))
    if unit.is_on("RestrictNamespaces"):
        limit("unshare", eperm)
        limit("setns", eperm)
        limit("clone3", enosys)
        for flag in (CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET):
            limit("clone", eperm, mask(flag))
    if unit.is_on("RestrictRealtime"):
        for policy in (1, 2, 6):
            limit("sched_setscheduler", eperm, seccomp.Arg(1, seccomp.EQ, policy))
    if unit.is_on("RestrictSUIDSGID"):
        limit("openat2", enosys)
        for name, place in (("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("mkdir", 1), ("mkdirat", 2), ("mknod", 1), ("mknodat", 2)):
            for bit in (0o4000, 0o2000):
                limit(name, eperm, seccomp.Arg(place, seccomp.MASKED_EQ, bit, bit))
        for name, place in (("open", 1), ("openat", 2)):
            for bit in (0o4000, 0o2000):
                create = seccomp.Arg(place, seccomp.MASKED_EQ, os.O_CREAT, os.O_CREAT)
                limit(name, eperm, create, seccomp.Arg(place + 1, seccomp.MASKED_EQ, bit, bit))
    if unit.is_on("LockPersonality"):
        limit("personality", eperm, seccomp.Arg(0, seccomp.NE, 0))
    for key, names_of in (("ProtectClock", "@clock"), ("ProtectKernelModules", "@module"), ("ProtectKernelLogs", "syslog")):
        if unit.is_on(key):
            for name in group(names_of) & names:
                # Time may be asked for and not set.
                limit(name, eperm, *([seccomp.Arg(0, seccomp.NE, 0)] if name == "clock_adjtime" else []))
    for name in ("sethostname", "setdomainname"):
        if unit.is_on("ProtectHostname"):
            limit(name, eperm)

    for name, found in number.items():
        if name not in names:
            rules.add_rule(refused, found)
            continue
        whole = [action for action, conditions in limited.get(name, []) if not conditions]
        if whole:
            # The library refuses to be told what it does anyway.
            if whole[0] != enosys:
                rules.add_rule(whole[0], found)
        elif name not in limited:
            rules.add_rule(seccomp.ALLOW, found)
    # A second filter for calls that depend on their arguments: the strictest answer of all filters counts. It is loaded first, as the
    # other one refuses to load any more.
    second = seccomp.SyscallFilter(seccomp.ALLOW)
    for name, all_of_it in limited.items():
        conditional = [(action, conditions) for action, conditions in all_of_it if conditions]
        if name in number and name in names and conditional and len(conditional) == len(all_of_it):
            rules.add_rule(seccomp.ALLOW, number[name])
            for action, conditions in conditional:
                second.add_rule(action, number[name], *conditions)
    return [second, rules]


# ---- the whole -------------------------------------------------------------------------------------------------------------------


def drop_everything(unit, uid):
    capabilities = unit.words("CapabilityBoundingSet") + unit.words("AmbientCapabilities")
    if capabilities:
        sys.exit("service.py knows a service without capabilities only")
    with open("/proc/sys/kernel/cap_last_cap", encoding="utf-8") as file:
        last = int(file.read())
    if unit.is_on("PrivateUsers"):
        users(uid)
    for capability in range(last + 1):
        call("prctl", PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.umask(octal(unit.last("UMask", "0022")))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if unit.is_on("NoNewPrivileges"):
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def users(uid):
    """A namespace in which there are root and the service's user, and nobody else; only someone outside can write that down."""
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.read(ready[0], 1)
        parent = os.getppid()
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/{parent}/{kind}", "w", encoding="utf-8") as file:
                file.write(f"0 0 1\n{uid} {uid} 1\n")
        os.write(done[1], b"x")
        os._exit(0)
    call("unshare", CLONE_NEWUSER)
    os.write(ready[1], b"x")
    os.read(done[0], 1)
    os.waitpid(child, 0)
    for each in (*ready, *done):
        os.close(each)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("unit")
    arguments.add_argument("--root", required=True)
    arguments.add_argument("--binary", required=True)
    arguments.add_argument("--uid", type=int, default=61234)
    arguments.add_argument("--set", action="append", default=[])
    arguments.add_argument("--without", action="append", default=[])
    given = arguments.parse_args()
    unit = Unit(given.unit)
    for setting in given.set:
        key, _, value = setting.partition("=")
        unit.values[key] = [value] if value else []
    if unit.last("User") != unit.last("Group"):
        sys.exit("service.py gives a service one number only")
    filters = system_calls(unit, given.without)
    # A pseudo file system that is about to be covered.
    limits(unit)
    environment = files(unit, os.path.basename(given.unit), given.root, given.binary, given.uid)
    kept = ("PATH", "LANG", "WATCHDOG_USEC")
    environment |= {name: os.environ[name] for name in kept if name in os.environ}
    environment["WATCHDOG_PID"] = str(os.getpid())
    command = shlex.split(unit.last("ExecStart"))
    os.chdir("/")
    drop_everything(unit, given.uid)
    unit.check()
    for each in filters:
        each.load()
    os.execve(command[0], command, environment)


main()
