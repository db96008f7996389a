/* The ways to the module: its Unix socket, or a command that carries the frames elsewhere. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "library.h"

enum { WORDS = 64 };

static int dial_socket(const char *path)
{
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof place.sun_path)
        return -1;
    memcpy(place.sun_path, path, strlen(path) + 1);
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return -1;
    int result;
    do /* a Unix socket that a signal interrupts has not begun to connect */
        result = connect(descriptor, (const struct sockaddr *)&place, sizeof place);
    while (result < 0 && errno == EINTR);
    if (result < 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

/* Splits a command in place into words, at blanks; quotes of both kinds keep them together, and a
 * backslash the next character, except in single quotes. No shell sees it. */
static bool split(char *text, char *words[WORDS])
{
    int count = 0;
    char *to = text;
    while (*text != '\0') {
        while (*text == ' ' || *text == '\t')
            text++;
        if (*text == '\0')
            break;
        if (count == WORDS - 1)
            return false;
        words[count++] = to;
        char quote = '\0';
        for (; *text != '\0' && (quote != '\0' || (*text != ' ' && *text != '\t')); text++) {
            if (quote == '\0' && (*text == '\'' || *text == '"'))
                quote = *text;
            else if (*text == quote)
                quote = '\0';
            else if (*text == '\\' && quote != '\'' && text[1] != '\0')
                *to++ = *++text;
            else
                *to++ = *text;
        }
        if (quote != '\0')
            return false;
        bool last = *text == '\0';
        *to++ = '\0';
        if (last)
            break;
        text++;
    }
    words[count] = NULL;
    return count != 0;
}

extern char **environ;

/* What a command gets instead, in a program that runs with more rights than its user (set-user-id):
 * the environment is the user's, and says what PATH finds and what an interpreter loads. */
static char *const PLAIN[] = {(char *)"PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL};

static bool start(char *words[], int descriptor, pid_t *child)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, usual;
    bool secure = getauxval(AT_SECURE) != 0;
    if (secure && words[0][0] != '/')
        return false; /* the user's PATH would say which it is */
    sigemptyset(&none);
    sigfillset(&usual);
    if (posix_spawn_file_actions_init(&actions) != 0)
        return false;
    if (posix_spawnattr_init(&attributes) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return false;
    }
    /* Whatever the application does with signals is none of the command's business; nor is what the
     * terminal sends to both, which the application may outlive. */
    bool ready = posix_spawn_file_actions_adddup2(&actions, descriptor, 0) == 0 &&
                 posix_spawn_file_actions_adddup2(&actions, descriptor, 1) == 0 &&
                 posix_spawnattr_setsigmask(&attributes, &none) == 0 &&
                 posix_spawnattr_setsigdefault(&attributes, &usual) == 0 &&
                 posix_spawnattr_setpgroup(&attributes, 0) == 0 &&
                 posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                           POSIX_SPAWN_SETPGROUP) == 0;
    char *const *environment = secure ? PLAIN : environ;
    bool started = ready && posix_spawnp(child, words[0], &actions, &attributes, words, environment) == 0;
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return started;
}

static int dial_command(const char *command, pid_t *child)
{
    char text[SG_ADDRESS], *words[WORDS];
    int ends[2];
    memcpy(text, command, strlen(command) + 1); /* an address is shorter than that */
    if (!split(text, words) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return -1;
    bool started = start(words, ends[1], child);
    close(ends[1]);
    if (!started) {
        close(ends[0]);
        return -1;
    }
    return ends[0];
}

int sg_dial(const char *address, pid_t *child)
{
    *child = 0;
    int descriptor =
        address[0] == '|' ? dial_command(address + 1, child) : dial_socket(address + strlen("unix:"));
    if (descriptor < 0 || descriptor > STDERR_FILENO)
        return descriptor;
    /* A daemon has closed its standard output; what somebody prints there all the same is no frame. */
    int higher = fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    close(descriptor);
    return higher;
}

/* Whether the child is gone within a second. */
static bool gone(pid_t child)
{
    for (int i = 0; i < 100; i++) {
        pid_t result = waitpid(child, NULL, WNOHANG);
        if (result == child || (result < 0 && errno != EINTR))
            return true; /* or somebody else has waited for it */
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return false;
}

void sg_reap(pid_t child)
{
    if (gone(child))
        return;
    kill(child, SIGTERM);
    if (gone(child))
        return;
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
}
