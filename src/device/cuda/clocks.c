/* Clocks, temperature and power of a GPU (cuda.h), from NVML: the driver's library, found at run time. A toolkit need
 * not have its header; numbers and signatures are those of NVML's reference manual. */
#include <dlfcn.h>
#include <stdio.h>

#include "device/cuda/libraries.h"

enum { NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2, NVML_TEMPERATURE_GPU = 0 };

static struct {
  bool tried;
  int (*init)(void);
  int (*by_bus)(const char *bus, void **device);
  int (*clock)(void *device, unsigned kind, unsigned *mhz);
  int (*temperature)(void *device, unsigned sensor, unsigned *celsius);
  int (*power)(void *device, unsigned *milliwatts);
  int (*reasons)(void *device, unsigned long long *reasons);
  void *library;
} nvml;

static const struct {
  uint64_t bit;
  const char *name;
} slowing[] = {{0x4, "power cap"}, {0x8, "hardware slowdown"}, {0x20, "thermal, by software"},
               {0x40, "thermal"},  {0x80, "power brake"},      {0x10, "sync boost"}};

static bool open_nvml(void) {
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  const char *what = "NVML";
  if (library && fk_library_find(library, what, "nvmlInit_v2", &nvml.init) &&
      fk_library_find(library, what, "nvmlDeviceGetHandleByPciBusId_v2", &nvml.by_bus) &&
      fk_library_find(library, what, "nvmlDeviceGetClockInfo", &nvml.clock) &&
      fk_library_find(library, what, "nvmlDeviceGetTemperature", &nvml.temperature) &&
      fk_library_find(library, what, "nvmlDeviceGetPowerUsage", &nvml.power) &&
      fk_library_find(library, what, "nvmlDeviceGetCurrentClocksThrottleReasons", &nvml.reasons) && nvml.init() == 0)
    nvml.library = library;
  else if (library)
    dlclose(library);
  return nvml.library != NULL;
}

static void *device_of(int device_id) {
  char bus[32];
  void *device = NULL;
  if (!nvml.tried) open_nvml();
  nvml.tried = true;
  if (!nvml.library || cudaDeviceGetPCIBusId(bus, sizeof bus, device_id) != cudaSuccess) return NULL;
  return nvml.by_bus(bus, &device) == 0 ? device : NULL;
}

static void widen(int *low, int *high, int value, bool first) {
  if (first || value < *low) *low = value;
  if (first || value > *high) *high = value;
}

void fk_cuda_clocks_read(int device_id, fk_cuda_clocks *c) {
  unsigned sm, memory, celsius, milliwatts;
  unsigned long long reasons;
  void *device = device_of(device_id);
  if (!device || nvml.clock(device, NVML_CLOCK_SM, &sm) || nvml.clock(device, NVML_CLOCK_MEM, &memory) ||
      nvml.temperature(device, NVML_TEMPERATURE_GPU, &celsius) || nvml.power(device, &milliwatts) ||
      nvml.reasons(device, &reasons))
    return;
  bool first = c->readings++ == 0;
  widen(&c->sm_mhz_low, &c->sm_mhz_high, (int)sm, first);
  widen(&c->memory_mhz_low, &c->memory_mhz_high, (int)memory, first);
  if ((int)celsius > c->celsius) c->celsius = (int)celsius;
  if ((int)(milliwatts / 1000) > c->watts) c->watts = (int)(milliwatts / 1000);
  c->reasons |= reasons;
}

void fk_cuda_clocks_slowed(const fk_cuda_clocks *c, char *text, size_t size) {
  size_t at = 0;
  if (size) *text = '\0';
  for (size_t i = 0; i < sizeof slowing / sizeof *slowing; i++)
    if (c->reasons & slowing[i].bit && at + 1 < size)
      at += (size_t)snprintf(text + at, size - at, "%s%s", at ? ", " : "", slowing[i].name);
}
