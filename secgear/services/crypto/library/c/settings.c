/* Where the module is: the first of these that says so.
 *
 * 1. C_Initialize's reserved string; 2. what the library was built for; 3. SECGEAR_PKCS11;
 * 4. $XDG_CONFIG_HOME/secgear/pkcs11.conf, or ~/.config/…; 5. /etc/secgear/pkcs11.conf.
 * A program that runs with more rights than its user (set-user-id) takes neither 3 nor 4.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "library.h"

#ifndef SG_BUILT_FOR
#define SG_BUILT_FOR ""
#endif

static const char *const BLANKS = " \t\r\n";

static bool is_address(const char *text)
{
    return (strncmp(text, "unix:/", 6) == 0 && text[6] != '\0') || (text[0] == '|' && text[1] != '\0');
}

static CK_RV take(const char *text, char address[SG_ADDRESS])
{
    if (strnlen(text, SG_ADDRESS) == SG_ADDRESS || !is_address(text))
        return CKR_ARGUMENTS_BAD;
    memcpy(address, text, strlen(text) + 1);
    return CKR_OK;
}

/* One line of a file: empty, a comment, or `module = ADDRESS`. */
static CK_RV take_line(char *line, char address[SG_ADDRESS])
{
    line += strspn(line, BLANKS);
    if (*line == '\0' || *line == '#')
        return CKR_OK;
    if (strncmp(line, "module", 6) != 0)
        return CKR_GENERAL_ERROR;
    line += 6;
    line += strspn(line, BLANKS);
    if (*line++ != '=')
        return CKR_GENERAL_ERROR;
    line += strspn(line, BLANKS);
    size_t size = strlen(line);
    while (size > 0 && strchr(BLANKS, line[size - 1]) != NULL)
        line[--size] = '\0';
    return take(line, address) == CKR_OK ? CKR_OK : CKR_GENERAL_ERROR;
}

/* A file may name a command: one that somebody else can write, or that is another user's, is none.
 * Returns NULL, with errno, also for what is no file. */
static FILE *open_file(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (descriptor < 0)
        return NULL;
    struct stat status;
    bool sound = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) &&
                 (status.st_uid == geteuid() || status.st_uid == 0) &&
                 (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
    FILE *file = sound ? fdopen(descriptor, "r") : NULL;
    if (file == NULL) {
        close(descriptor);
        errno = EACCES;
    }
    return file;
}

/* A file that is not there says nothing; one that says something else is an error. */
static CK_RV take_file(const char *path, char address[SG_ADDRESS])
{
    char line[SG_ADDRESS + 16];
    FILE *file = open_file(path);
    if (file == NULL)
        return errno == ENOENT || errno == ENOTDIR ? CKR_OK : CKR_GENERAL_ERROR;
    CK_RV rv = CKR_OK;
    while (rv == CKR_OK && fgets(line, sizeof line, file) != NULL) {
        if (strchr(line, '\n') == NULL && !feof(file))
            rv = CKR_GENERAL_ERROR; /* a line that is too long */
        else
            rv = take_line(line, address);
    }
    if (ferror(file))
        rv = CKR_GENERAL_ERROR;
    fclose(file);
    return rv;
}

static CK_RV take_users_file(char address[SG_ADDRESS])
{
    char path[SG_ADDRESS];
    const char *base = getenv("XDG_CONFIG_HOME"), *between = "";
    if (base == NULL || base[0] != '/') {
        base = getenv("HOME");
        between = "/.config";
    }
    if (base == NULL || base[0] != '/')
        return CKR_OK;
    int size = snprintf(path, sizeof path, "%s%s/secgear/pkcs11.conf", base, between);
    return size < 0 || (size_t)size >= sizeof path ? CKR_GENERAL_ERROR : take_file(path, address);
}

CK_RV sg_settings(const char *given, char address[SG_ADDRESS])
{
    address[0] = '\0';
    if (given != NULL)
        return take(given, address);
    if (SG_BUILT_FOR[0] != '\0')
        return take(SG_BUILT_FOR, address);
    CK_RV rv = CKR_OK;
    if (!getauxval(AT_SECURE)) {
        const char *set = getenv("SECGEAR_PKCS11");
        if (set != NULL && set[0] != '\0')
            return take(set, address) == CKR_OK ? CKR_OK : CKR_GENERAL_ERROR;
        rv = take_users_file(address);
    }
    if (rv == CKR_OK && address[0] == '\0')
        rv = take_file("/etc/secgear/pkcs11.conf", address);
    if (rv == CKR_OK && address[0] == '\0')
        rv = CKR_GENERAL_ERROR; /* nobody says where it is */
    return rv;
}
