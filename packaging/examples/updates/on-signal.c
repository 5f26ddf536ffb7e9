/* Reads two secrets that belong together, again at each SIGHUP: on-signal DIRECTORY FILE FILE
 * For a container with run.secrets.update=live and run.secrets.on-update=signal:HUP, as its first process. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

static ssize_t load(int directory, const char *name)
{
    char secret[4096];
    int file = openat(directory, name, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, secret, sizeof secret);
    if (file >= 0)
        close(file);
    return length;
}

int main(int count, char **words)
{
    sigset_t signals;
    int signal = 0;
    if (count != 4)
        return 64;
    /* Blocked, so that one that arrives while the files are read is not lost. */
    sigemptyset(&signals);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    do {
        /* Opened each time: a directory that is open stays as it was. Both files are of one set. */
        int directory = open(words[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ssize_t first = load(directory, words[2]), second = load(directory, words[3]);
        if (directory >= 0)
            close(directory);
        if (first < 0 || second < 0)
            return 1;
        printf("loaded %zd bytes\n", first + second);
        fflush(stdout);
    } while (sigwait(&signals, &signal) == 0);
    return 1;
}
