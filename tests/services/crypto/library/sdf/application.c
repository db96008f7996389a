/* An application of GM/T 0018, as one is written: it signs a message, opens an envelope, encrypts.
 *
 * Arguments: the password of key 1. Prints what it has found out, a line each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdf.h"

static void check(const char *what, int code)
{
    if (code == SDR_OK)
        return;
    fprintf(stderr, "%s: %08x\n", what, (unsigned)code);
    exit(1);
}

static void show(const char *name, const unsigned char *data, unsigned size)
{
    printf("%s ", name);
    for (unsigned i = 0; i < size; i++)
        printf("%02x", data[i]);
    printf("\n");
}

int main(int count, char **arguments)
{
    unsigned char digest[32], iv[16] = {0}, text[32] = "thirty-two bytes of a message...", sealed[32],
                                            opened[32];
    unsigned length = sizeof digest;
    void *device, *session, *key, *same;
    ECCrefPublicKey public;
    ECCSignature signature;
    ECCCipher *envelope = malloc(SDF_CIPHER_SIZE(16));

    if (count != 2 || envelope == NULL)
        return 2;
    check("open", SDF_OpenDevice(&device));
    check("session", SDF_OpenSession(device, &session));
    check("right", SDF_GetPrivateKeyAccessRight(session, 1, (unsigned char *)arguments[1],
                                                (unsigned)strlen(arguments[1])));
    check("export", SDF_ExportSignPublicKey_ECC(session, 1, &public));
    check("hash", SDF_HashInit(session, SGD_SM3, &public, (unsigned char *)"1234567812345678", 16));
    check("hash", SDF_HashUpdate(session, text, sizeof text));
    check("hash", SDF_HashFinal(session, digest, &length));
    check("sign", SDF_InternalSign_ECC(session, 1, digest, length, &signature));
    check("verify", SDF_ExternalVerify_ECC(session, SGD_SM2_1, &public, digest, length, &signature));
    show("point", public.x + 32, 32);
    show("digest", digest, length);

    check("generate", SDF_GenerateKeyWithIPK_ECC(session, 1, 128, envelope, &key));
    check("import", SDF_ImportKeyWithISK_ECC(session, 1, envelope, &same));
    length = sizeof sealed;
    check("encrypt", SDF_Encrypt(session, key, SGD_SM4_CBC, iv, text, sizeof text, sealed, &length));
    memset(iv, 0, sizeof iv);
    check("decrypt", SDF_Decrypt(session, same, SGD_SM4_CBC, iv, sealed, length, opened, &length));
    printf("same %d\n", length == sizeof text && memcmp(opened, text, sizeof text) == 0);

    check("destroy", SDF_DestroyKey(session, key));
    check("release", SDF_ReleasePrivateKeyAccessRight(session, 1));
    printf("refused %08x\n", (unsigned)SDF_InternalSign_ECC(session, 1, digest, sizeof digest, &signature));
    check("close", SDF_CloseSession(session));
    check("close", SDF_CloseDevice(device));
    free(envelope);
    return 0;
}
