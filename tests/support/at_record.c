/* Loaded into howdah by LD_PRELOAD: kill -9 at the moment in which the N-th record has been put in its place, and before anything
   follows from it. N is in the file that HOWDAH_TEST_AT_RECORD names, and is counted down there; without the file nothing happens. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int rename(const char *from, const char *to)
{
    static int (*real)(const char *, const char *);
    const char *name = "/main.json", *control = getenv("HOWDAH_TEST_AT_RECORD");
    size_t length = strlen(to);
    int result, left = 0;
    FILE *file;

    if (!real)
        real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    result = real(from, to);
    if (result != 0 || !control || length < strlen(name) || strcmp(to + length - strlen(name), name) != 0)
        return result;
    if ((file = fopen(control, "r+")) == NULL)
        return result;
    if (fscanf(file, "%d", &left) == 1 && left == 1)
        kill(getpid(), SIGKILL);
    rewind(file);
    fprintf(file, "%d\n", left - 1);
    fclose(file);
    return result;
}
