/* A PKCS#11 module that wraps another one. C_Decrypt waits until CALLS calls are pending.
 *
 * cc -shared -fPIC -DMODULE='"/usr/lib/softhsm/libsofthsm2.so"' -DCALLS=16 -o barrier.so pkcs11_barrier.c
 */

#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>

/* The list of functions: a version, and then the functions in the order of the standard. */
enum { FUNCTIONS = 68, DECRYPT = 34 };
struct list {
    unsigned char version[2];
    void *functions[FUNCTIONS];
};

typedef unsigned long (*get_list)(struct list **);
typedef unsigned long (*decrypt)(unsigned long, void *, unsigned long, void *, unsigned long *);

static struct list ours, *theirs;
static pthread_barrier_t all;

static unsigned long wait_and_decrypt(unsigned long session, void *in, unsigned long in_len, void *out,
                                      unsigned long *out_len)
{
    pthread_barrier_wait(&all);
    return ((decrypt)theirs->functions[DECRYPT])(session, in, in_len, out, out_len);
}

unsigned long C_GetFunctionList(struct list **list)
{
    void *module = dlopen(MODULE, RTLD_NOW);
    unsigned long result = ((get_list)dlsym(module, "C_GetFunctionList"))(&theirs);
    ours = *theirs;
    ours.functions[DECRYPT] = wait_and_decrypt;
    pthread_barrier_init(&all, NULL, CALLS);
    *list = &ours;
    return result;
}
