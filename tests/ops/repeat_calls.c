// Repeats calls of the CPU kernels that recorded_calls.py has written, by every instruction set, and compares what they
// leave in memory: repeat_calls LIBRARY CALLS
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>
#define LOAD(path) ((void*)LoadLibraryA(path))
#define FIND(library, name) ((void*)GetProcAddress((HMODULE)(library), name))
#else
#include <dlfcn.h>
#define LOAD(path) dlopen(path, RTLD_NOW)
#define FIND(library, name) dlsym(library, name)
#endif

typedef int (*Call)(const void* args, int64_t instruction_set, int64_t threads, int openmp);

static FILE* file;
static int64_t number(void) {
  int64_t value;
  if (fread(&value, 8, 1, file) != 1) exit(3);
  return value;
}
static char* bytes(int64_t count) {
  char* to = calloc(count + 64, 1);
  if (fread(to, 1, count, file) != (size_t)count) exit(3);
  return to;
}

static double value(const char* data, int64_t size, int64_t i) {
  return size == 4 ? ((const float*)data)[i] : ((const double*)data)[i];
}

// Relative to the largest value; bits that nobody wrote are the same.
static double difference(const char* actual, const char* expected, int64_t count, int64_t size) {
  double largest = 1e-30, worst = 0;
  for (int64_t i = 0; i < count; i++)
    if (memcmp(actual + i * size, expected + i * size, size)) {
      const double off = fabs(value(actual, size, i) - value(expected, size, i));
      worst = off <= worst ? worst : off;  // takes NaN
    }
  for (int64_t i = 0; i < count; i++)
    if (fabs(value(expected, size, i)) > largest && isfinite(value(expected, size, i)))
      largest = fabs(value(expected, size, i));
  return worst / largest;
}

int main(int argc, char** argv) {
  void* library = argc == 3 ? LOAD(argv[1]) : NULL;
  file = argc == 3 ? fopen(argv[2], "rb") : NULL;
  if (!library || !file) return fprintf(stderr, "cannot open %s\n", library ? "the calls" : "the library"), 2;
  const char* (*name_of)(int64_t) = (const char* (*)(int64_t))FIND(library, "nm_instruction_set");
  int (*supported)(int64_t) = (int (*)(int64_t))FIND(library, "nm_supported");
  int failed = 0;
  for (int64_t calls = number(), call = 0; call < calls; call++) {
    char* function = bytes(number());
    const int64_t args_size = number();
    char* args = bytes(args_size);
    int64_t regions = number();
    char *data[64], *before[64], *expected[64];
    int64_t sizes[64], elements[64];
    for (int64_t r = 0; r < regions; r++) {
      elements[r] = number(), sizes[r] = number();
      before[r] = bytes(sizes[r]), expected[r] = bytes(sizes[r]), data[r] = malloc(sizes[r] + 64);
    }
    for (int64_t pointers = number(), p = 0; p < pointers; p++) {
      const int64_t at = number(), region = number(), offset = number();
      char* to = data[region] + offset;
      memcpy(args + at, &to, 8);
    }
    const Call run = (Call)FIND(library, function);
    if (!run) return fprintf(stderr, "no %s\n", function), 2;
    for (int64_t set = 0; name_of(set); set++)
      for (int64_t threads = 1; supported(set) && threads <= 16; threads += 15) {
        for (int64_t r = 0; r < regions; r++) memcpy(data[r], before[r], sizes[r]);
        const int code = run(args, set, threads, 0);
        double worst = 0, bound = strstr(function, "f32") ? 1e-5 : 1e-12;
        for (int64_t r = 0; r < regions; r++) {
          const double off = difference(data[r], expected[r], sizes[r] / elements[r], elements[r]);
          worst = off <= worst ? worst : off;
        }
        const int bad = code || !(worst <= bound);
        printf("%s %s %d threads: %.1e%s\n", function, name_of(set), (int)threads, worst, bad ? " WRONG" : "");
        failed |= bad;
      }
  }
  return failed;
}
