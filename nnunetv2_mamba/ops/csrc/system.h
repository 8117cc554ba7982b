// What the host side needs of the system: memory and threads. Not by the C++ library: without it the compiled file needs
// nothing but the system, whichever compiler made it.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#if defined(_WIN32)
#define NOMINMAX
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <sched.h>
#endif

namespace nm {

// Zeros. `missing` where the system has no memory to give.
template <class T>
class Array {
  T* const data;

 public:
  const int64_t size;

  explicit Array(int64_t size) : data(size > 0 ? (T*)calloc(size, sizeof(T)) : nullptr), size(size) {}
  ~Array() { free(data); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  bool missing() const { return size > 0 && !data; }
  T& operator[](int64_t i) { return data[i]; }
};

// What a thread is to do.
struct Task {
  void (*work)(const void* on, int64_t number);
  const void* on;
  int64_t number;

  void run() const { work(on, number); }
};

#if defined(_WIN32)
typedef HANDLE Thread;

static inline DWORD WINAPI run_task(void* task) {
  ((const Task*)task)->run();
  return 0;
}

// Whether the system gave a thread. The task has to outlive it.
static inline bool start(Thread* thread, const Task* task) {
  *thread = CreateThread(nullptr, 0, run_task, (void*)task, 0, nullptr);
  return *thread;
}

static inline void join(Thread thread) { WaitForSingleObject(thread, INFINITE), CloseHandle(thread); }

static inline void give_way() { SwitchToThread(); }
#else
typedef pthread_t Thread;

static inline void* run_task(void* task) {
  ((const Task*)task)->run();
  return nullptr;
}

// Whether the system gave a thread. The task has to outlive it.
static inline bool start(Thread* thread, const Task* task) {
  return pthread_create(thread, nullptr, run_task, (void*)task) == 0;
}

static inline void join(Thread thread) { pthread_join(thread, nullptr); }

static inline void give_way() { sched_yield(); }
#endif

}  // namespace nm
