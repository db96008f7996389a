/* What SDF_OpenDevice can't be told: which token, and who it is that asks.
 *
 * The first of these files that is there: SECGEAR_SDF (its path); $XDG_CONFIG_HOME/secgear/sdf.conf,
 * or ~/.config/…; /etc/secgear/sdf.conf. A program that runs with more rights than its user takes
 * only the last. Lines are `slot = NUMBER` and `pin-file = PATH`; without any it is slot 0 and no
 * PIN. Where the module is, is in settings.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sdf_rooms.h"

enum { MAX_SETTINGS = 8192, MAX_PIN = 255 };
static const char *const BLANKS = " \t\r\n";

/* All of a file that nobody but its owner could have written. Returns its size, -1 for an error.
 * others: bits of the mode that others must not have. */
static ssize_t read_file(const char *path, mode_t others, uint8_t *into, size_t room)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (file < 0)
        return -1;
    struct stat status;
    ssize_t size = -1;
    bool sound = fstat(file, &status) == 0 && S_ISREG(status.st_mode) &&
                 (status.st_uid == geteuid() || status.st_uid == 0) && (status.st_mode & others) == 0;
    if (sound && status.st_size > 0 && (size_t)status.st_size <= room) {
        do
            size = read(file, into, room);
        while (size < 0 && errno == EINTR);
    } else if (sound && status.st_size == 0) {
        size = 0;
    }
    close(file);
    return size;
}

static bool take_pin(const char *path, struct sdf_settings *settings)
{
    ssize_t size = read_file(path, S_IRWXG | S_IRWXO, settings->pin, sizeof settings->pin);
    if (size > 0 && settings->pin[size - 1] == '\n')
        size--;
    if (size <= 0 || size > MAX_PIN || memchr(settings->pin, '\n', (size_t)size) != NULL) {
        explicit_bzero(settings->pin, sizeof settings->pin);
        return false;
    }
    settings->pin_size = (size_t)size;
    return true;
}

static bool take_slot(const char *text, struct sdf_settings *settings)
{
    char *end;
    if (*text < '0' || *text > '9')
        return false;
    errno = 0;
    settings->slot = strtoul(text, &end, 10);
    return errno == 0 && *end == '\0';
}

static bool take_line(char *line, struct sdf_settings *settings)
{
    line += strspn(line, BLANKS);
    if (*line == '\0' || *line == '#')
        return true;
    char *value = strchr(line, '=');
    if (value == NULL)
        return false;
    *value++ = '\0';
    value += strspn(value, BLANKS);
    for (size_t size = strlen(line); size > 0 && strchr(BLANKS, line[size - 1]) != NULL;)
        line[--size] = '\0';
    for (size_t size = strlen(value); size > 0 && strchr(BLANKS, value[size - 1]) != NULL;)
        value[--size] = '\0';
    if (strcmp(line, "slot") == 0)
        return take_slot(value, settings);
    if (strcmp(line, "pin-file") == 0)
        return value[0] == '/' && settings->pin_size == 0 && take_pin(value, settings);
    return false;
}

static bool take_file(const char *path, struct sdf_settings *settings)
{
    char text[MAX_SETTINGS + 1];
    ssize_t size = read_file(path, S_IWGRP | S_IWOTH, (uint8_t *)text, MAX_SETTINGS);
    if (size < 0 || memchr(text, '\0', (size_t)size) != NULL)
        return false;
    text[size] = '\0';
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) != NULL;) {
        if (!take_line(line, settings))
            return false;
    }
    return true;
}

/* The user's own file; false for a path that is too long. */
static bool users_path(char *path, size_t room)
{
    const char *base = getenv("XDG_CONFIG_HOME"), *rest = "/secgear/sdf.conf";
    if (base == NULL || base[0] != '/') {
        base = getenv("HOME");
        rest = "/.config/secgear/sdf.conf";
    }
    if (base == NULL || base[0] != '/')
        base = rest = "";
    int size = snprintf(path, room, "%s%s", base, rest);
    return size >= 0 && (size_t)size < room;
}

static bool is_there(const char *path)
{
    return path[0] != '\0' && (access(path, F_OK) == 0 || (errno != ENOENT && errno != ENOTDIR));
}

bool sdf_settings(struct sdf_settings *settings)
{
    static const char SYSTEM[] = "/etc/secgear/sdf.conf";
    char path[4096];
    memset(settings, 0, sizeof *settings);
    if (!getauxval(AT_SECURE)) {
        const char *told = getenv("SECGEAR_SDF");
        if (told != NULL && told[0] != '\0')
            return told[0] == '/' && take_file(told, settings);
        if (!users_path(path, sizeof path))
            return false;
        if (is_there(path))
            return take_file(path, settings);
    }
    return !is_there(SYSTEM) || take_file(SYSTEM, settings);
}
