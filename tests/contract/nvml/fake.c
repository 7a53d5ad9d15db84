/* A libnvidia-ml.so.1 that does what the file nvml.txt beside it says. Each call reads the file again.
 *
 *   driver 550.90.07
 *   cuda 12040
 *   gpu <uuid> <total MiB> <used MiB> [mig]             a GPU, in MIG mode or not
 *   mig <gpu> <number> <uuid> <total MiB> [<g> <c>]     a MIG instance; the numbers may have holes; g and c are the ids
 *                                                       of its GPU instance and compute instance: number + 7, and 0
 *   set <key> <value>                                   for all: utilisation, power_mw, energy_mj, processes, mps,
 *                                                       ecc, pending, failure, retired, badname (a name that is no UTF-8)
 *   fail <function>[@<device>] <code>                   device: a GPU's index; * for all functions of that device
 *   hang <function>[@<device>]
 *   crash <function>[@<device>]
 *   garbage <function>[@<device>] <line>                written to each pipe, as by a library that writes where it should not
 */
#define _GNU_SOURCE
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include "nvml.h"
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define RESERVED (512 * MIB)
#define MOST 8

typedef struct { char uuid[96]; unsigned long long total, used; int mig; int gpu, number; unsigned int gi, ci; } Device;

static Device gpus[MOST], instances[MOST];
static int n_gpus, n_instances, started, cuda_version;
static char driver[80];
static struct { long long utilisation, power_mw, energy_mj, processes, mps, ecc, pending, failure, retired, badname; } set;

static void put(const char *key, long long value) {
#define KEY(name) if (!strcmp(key, #name)) set.name = value
    KEY(utilisation); KEY(power_mw); KEY(energy_mj); KEY(processes); KEY(mps); KEY(ecc); KEY(pending); KEY(failure);
    KEY(retired); KEY(badname);
}

/* "nvmlInit" is a rule for nvmlInit alone, "nvmlDeviceGetName@1" for GPU 1 and its instances, "*@1" for all of it. */
static int matches(const char *rule, const char *function, int gpu) {
    const char *at = strchr(rule, '@');
    size_t length = at ? (size_t)(at - rule) : strlen(rule);
    int any = length == 1 && *rule == '*';
    if (!any && (strlen(function) != length || strncmp(rule, function, length))) return 0;
    return !at || atoi(at + 1) == gpu;
}

static FILE *script(void) {
    Dl_info here;
    char path[4096];
    if (!dladdr((void *)script, &here)) return NULL;
    snprintf(path, sizeof path, "%s", here.dli_fname);
    char *slash = strrchr(path, '/');
    snprintf(slash ? slash + 1 : path, 16, "nvml.txt");
    return fopen(path, "r");
}

static void device(const char *line) {
    Device one = {.number = -1};
    char word[16] = "";
    if (sscanf(line, "gpu %95s %llu %llu %15s", one.uuid, &one.total, &one.used, word) >= 3 && n_gpus < MOST) {
        one.mig = !strcmp(word, "mig");
        one.gpu = n_gpus;
        gpus[n_gpus++] = one;
    } else if (n_instances < MOST) {
        int words = sscanf(line, "mig %d %d %95s %llu %u %u", &one.gpu, &one.number, one.uuid, &one.total, &one.gi, &one.ci);
        if (words < 4) return;
        if (words < 6) { one.gi = one.number + 7; one.ci = 0; }
        one.used = 16;
        instances[n_instances++] = one;
    }
}

static void write_to_pipes(const char *line) {
    struct stat about;
    for (int fd = 0; fd < 32; fd++)
        if (!fstat(fd, &about) && S_ISFIFO(about.st_mode)) dprintf(fd, "%s\n", line);
}

/* What the file says of this call: the code that it is to return. */
static nvmlReturn_t obey(const char *function, int gpu) {
    char line[256], rule[128], text[128], key[32];
    long long value;
    int code, result = 0;
    n_gpus = n_instances = cuda_version = 0;
    memset(&set, 0, sizeof set);
    FILE *file = script();
    if (!file) return NVML_ERROR_DRIVER_NOT_LOADED;
    while (fgets(line, sizeof line, file)) {
        device(line);
        sscanf(line, "driver %79s", driver);
        sscanf(line, "cuda %d", &cuda_version);
        if (sscanf(line, "set %31s %lld", key, &value) == 2) put(key, value);
        if (sscanf(line, "fail %127s %d", rule, &code) == 2 && matches(rule, function, gpu)) result = code;
        if (sscanf(line, "hang %127s", rule) == 1 && matches(rule, function, gpu)) for (;;) pause();
        if (sscanf(line, "garbage %127s %127[^\n]", rule, text) == 2 && matches(rule, function, gpu)) write_to_pipes(text);
        if (sscanf(line, "crash %127s", rule) == 1 && matches(rule, function, gpu)) *(volatile int *)0 = 0;
    }
    fclose(file);
    if (result) return result;
    return started || !strncmp(function, "nvmlInit", 8) ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

/* Handles: 1 + GPU's index; 0x100 + place in `instances`. They stay what they are when the file changes. */
static int is_mig(nvmlDevice_t d) { return (uintptr_t)d >= 0x100; }
static nvmlDevice_t gpu_handle(int i) { return (nvmlDevice_t)(uintptr_t)(1 + i); }
static nvmlDevice_t mig_handle(int i) { return (nvmlDevice_t)(uintptr_t)(0x100 + i); }
static Device *of(nvmlDevice_t d) { return is_mig(d) ? &instances[(uintptr_t)d - 0x100] : &gpus[(uintptr_t)d - 1]; }
static int gpu_of(nvmlDevice_t d) { return is_mig(d) ? of(d)->gpu : (int)((uintptr_t)d - 1); }

#define OBEY(gpu) do { nvmlReturn_t r_ = obey(__func__, gpu); if (r_) return r_; } while (0)
/* As in a container: who may use an instance may not ask its GPU. */
#define PRIVATE(d) do { OBEY(gpu_of(d)); if (!is_mig(d) && of(d)->mig) return NVML_ERROR_NO_PERMISSION; } while (0)
#define WHOLE(d) do { OBEY(gpu_of(d)); if (is_mig(d)) return NVML_ERROR_NOT_SUPPORTED; } while (0)

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) { (void)flags; OBEY(-1); started = 1; return NVML_SUCCESS; }
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlShutdown(void) { OBEY(-1); started = 0; return NVML_SUCCESS; }
const char *nvmlErrorString(nvmlReturn_t result) { (void)result; return "an error of the fake library"; }

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    OBEY(-1);
    snprintf(version, length, "%s", driver);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) { OBEY(-1); *version = cuda_version; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) { OBEY(-1); *count = n_gpus; return NVML_SUCCESS; }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *d) {
    OBEY((int)index);
    if ((int)index >= n_gpus) return NVML_ERROR_INVALID_ARGUMENT;
    *d = gpu_handle(index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *d) {
    OBEY(-1);
    for (int i = 0; i < n_gpus; i++) if (!strcmp(gpus[i].uuid, uuid)) { *d = gpu_handle(i); return obey(__func__, i); }
    for (int i = 0; i < n_instances; i++) if (!strcmp(instances[i].uuid, uuid)) { *d = mig_handle(i); return NVML_SUCCESS; }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t d, char *name, unsigned int length) {
    OBEY(gpu_of(d));
    if (set.badname) return snprintf(name, length, "H\xff\xfe"), NVML_SUCCESS;
    snprintf(name, length, is_mig(d) ? "NVIDIA H100 80GB HBM3 MIG 1g.10gb" : "NVIDIA H100 80GB HBM3");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t d, char *uuid, unsigned int length) {
    OBEY(gpu_of(d));
    snprintf(uuid, length, "%s", of(d)->uuid);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *memory) {
    PRIVATE(d);
    memory->total = of(d)->total * MIB;
    memory->used = of(d)->used * MIB + RESERVED;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t d, nvmlMemory_v2_t *memory) {
    PRIVATE(d);
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    memory->total = of(d)->total * MIB;
    memory->used = of(d)->used * MIB;
    memory->reserved = RESERVED;
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t d, nvmlUtilization_t *rates) {
    WHOLE(d);
    rates->gpu = set.utilisation;
    rates->memory = 1;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t d, unsigned int *mw) { WHOLE(d); *mw = set.power_mw; return NVML_SUCCESS; }

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t d, unsigned long long *mj) {
    WHOLE(d);
    *mj = set.energy_mj;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t d, nvmlTemperatureSensors_t sensor, unsigned int *celsius) {
    WHOLE(d);
    if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = 41;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t d, int *major, int *minor) {
    WHOLE(d);
    *major = 9;
    *minor = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned int *current, unsigned int *pending) {
    WHOLE(d);
    *current = *pending = of(d)->mig ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned int *count) { WHOLE(d); *count = 7; return NVML_SUCCESS; }

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned int index, nvmlDevice_t *instance) {
    WHOLE(d);
    for (int i = 0; i < n_instances; i++)
        if (instances[i].gpu == gpu_of(d) && instances[i].number == (int)index) {
            *instance = mig_handle(i);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

#define INSTANCE(d) do { OBEY(gpu_of(d)); if (!is_mig(d)) return NVML_ERROR_NOT_SUPPORTED; } while (0)
nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t d, unsigned int *id) { INSTANCE(d); *id = of(d)->gi; return NVML_SUCCESS; }
nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t d, unsigned int *id) { INSTANCE(d); *id = of(d)->ci; return NVML_SUCCESS; }

static nvmlReturn_t list(unsigned int n, unsigned int *count, nvmlProcessInfo_t *found) {
    unsigned int room = *count;
    *count = n;
    if (n > room) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < n; i++)
        found[i] = (nvmlProcessInfo_t){.pid = 70000 + i, .usedGpuMemory = MIB, .gpuInstanceId = ~0u, .computeInstanceId = ~0u};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_t *found) {
    OBEY(gpu_of(d));
    return list(set.processes, count, found);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t d, unsigned int *count, nvmlProcessInfo_t *found) {
    OBEY(gpu_of(d));
    return list(set.mps, count, found);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(
    nvmlDevice_t d, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter, unsigned long long *errors) {
    WHOLE(d);
    if (type != NVML_MEMORY_ERROR_TYPE_UNCORRECTED || counter != NVML_VOLATILE_ECC) return NVML_ERROR_INVALID_ARGUMENT;
    *errors = set.ecc;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(
    nvmlDevice_t d, unsigned int *corrected, unsigned int *uncorrected, unsigned int *pending, unsigned int *failure) {
    WHOLE(d);
    *corrected = 2; /* rows that are replaced already are no reason to refuse a GPU */
    *uncorrected = 1;
    *pending = set.pending;
    *failure = set.failure;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRetiredPagesPendingStatus(nvmlDevice_t d, nvmlEnableState_t *pending) {
    WHOLE(d);
    *pending = set.retired ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return NVML_SUCCESS;
}
