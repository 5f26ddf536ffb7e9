/*
 * Tries everything by which a process with all capabilities of its user namespace could make a mounted file system writable: prints
 * each attempt that changed a file, then how many there were.
 *
 * Usage: make_writable DIRECTORY FILE, where FILE is in DIRECTORY. Numbers and structures are the kernel's: older C libraries lack them.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { OPEN_TREE = 428, MOVE_MOUNT = 429, FSCONFIG = 431, FSPICK = 433, MOUNT_SETATTR = 442 };
enum { SET_FLAG = 0, RECONFIGURE = 7, CLONE_TREE = 1, IDMAP = 0x00100000, RO_NOSUID_NODEV_NOEXEC = 0xf };
struct attributes { unsigned long long set, clear, propagation, userns; };

static const char *file;
static int attempts;

/* Whether anything below a directory can be changed. */
static int changes(const char *directory) {
    char path[512], other[512];
    snprintf(path, sizeof path, "%s/%s", directory, file);
    snprintf(other, sizeof other, "%s/new", directory);
    /* Not O_TRUNC: what is found must stay there for the next attempt. */
    int opened = open(path, O_WRONLY | O_APPEND), made = open(other, O_CREAT | O_WRONLY, 0600);
    return opened >= 0 || made >= 0 || chmod(path, 0777) == 0 || chown(path, 0, 0) == 0 || link(path, other) == 0
        || rename(path, other) == 0 || setxattr(path, "user.x", "y", 1, 0) == 0 || truncate(path, 0) == 0
        || symlink("x", other) == 0 || mkdir(other, 0700) == 0;
}

static void attempt(const char *name, const char *directory) {
    attempts++;
    if (changes(directory)) printf("writable: %s\n", name);
}

static int reconfigure(int context) {
    if (context < 0) return -1;
    syscall(FSCONFIG, context, SET_FLAG, "noswap", NULL, 0);
    syscall(FSCONFIG, context, SET_FLAG, "rw", NULL, 0);
    return syscall(FSCONFIG, context, RECONFIGURE, NULL, NULL, 0);
}

/* Directories to mount on: the namespaces below have no id that may make any. */
enum { OTHER, MOVED, TREE, OVER, DIRECTORIES };

static void all(const char *at, char directories[DIRECTORIES][32]) {
    struct attributes writable = { 0, RO_NOSUID_NODEV_NOEXEC, 0, 0 };
    const char *other = directories[OTHER], *moved = directories[MOVED], *tree = directories[TREE], *over = directories[OVER];

    mount(NULL, at, NULL, MS_REMOUNT, NULL);
    attempt("mount(MS_REMOUNT)", at);
    mount(NULL, at, NULL, MS_REMOUNT | MS_BIND, NULL);
    attempt("mount(MS_REMOUNT|MS_BIND)", at);
    reconfigure(syscall(FSPICK, AT_FDCWD, at, 0));
    attempt("fspick, fsconfig(CMD_RECONFIGURE)", at);
    syscall(MOUNT_SETATTR, AT_FDCWD, at, 0, &writable, sizeof writable);
    attempt("mount_setattr", at);

    mount(at, other, NULL, MS_BIND, NULL);
    mount(NULL, other, NULL, MS_REMOUNT | MS_BIND, NULL);
    attempt("a bind mount", other);
    mount(NULL, other, NULL, MS_REMOUNT, NULL);
    attempt("a bind mount, mount(MS_REMOUNT)", other);
    mount(other, moved, NULL, MS_MOVE, NULL);
    mount(NULL, moved, NULL, MS_REMOUNT, NULL);
    attempt("a moved mount", moved);

    int clone = syscall(OPEN_TREE, AT_FDCWD, at, CLONE_TREE | O_CLOEXEC);
    syscall(MOUNT_SETATTR, clone, "", AT_EMPTY_PATH, &writable, sizeof writable);
    reconfigure(syscall(FSPICK, clone, "", 8));
    syscall(MOVE_MOUNT, clone, "", AT_FDCWD, tree, 4);
    attempt("open_tree, mount_setattr, move_mount", tree);
    int idmapped = syscall(OPEN_TREE, AT_FDCWD, at, CLONE_TREE | O_CLOEXEC);
    struct attributes mapped = { IDMAP, RO_NOSUID_NODEV_NOEXEC, 0, open("/proc/self/ns/user", O_RDONLY) };
    syscall(MOUNT_SETATTR, idmapped, "", AT_EMPTY_PATH, &mapped, sizeof mapped);
    syscall(MOVE_MOUNT, idmapped, "", AT_FDCWD, tree, 4);
    attempt("an idmapped mount", tree);

    char options[600];
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=%s,workdir=%s,userxattr", over, at, at);
    mount("overlay", over, "overlay", 0, options);
    attempt("as the upper layer of an overlay", at);
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    file = arguments[2];
    setvbuf(stdout, NULL, _IONBF, 0);
    static char directories[2][DIRECTORIES][32];
    for (int way = 0; way < 2; way++)
        for (int directory = 0; directory < DIRECTORIES; directory++)
            if (!mkdtemp(strcpy(directories[way][directory], "/tmp/XXXXXX"))) return 3;
    all(arguments[1], directories[0]);
    /* Again in namespaces below. */
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return 4;
    all(arguments[1], directories[1]);
    printf("%d attempts\n", attempts);
    return 0;
}
