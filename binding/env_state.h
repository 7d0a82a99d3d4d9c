// binding/: state of one JS environment (main thread or worker_thread): the queue back to its JS thread and what is running.
#pragma once

#include <napi.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>

namespace lowbit {

using CancelFlag = std::shared_ptr<std::atomic<bool>>;

class EnvState {
 public:
  // Created once per environment in addon.cc; shared with engine threads, which may outlive the environment.
  static std::shared_ptr<EnvState> Create(Napi::Env env);
  static std::shared_ptr<EnvState> Get(Napi::Env env);

  // Any thread: runs fn on the JS thread. False when the environment is shutting down; fn is then dropped on this thread
  // and must not touch JS in its destructor.
  bool Post(std::function<void(Napi::Env)> fn);

  // JS thread: the flag is set when the environment goes away.
  void Watch(const CancelFlag& cancel) { running_.insert(cancel); }
  void Unwatch(const CancelFlag& cancel) { running_.erase(running_.find(cancel)); }
  // JS thread: the event loop stays alive while somebody holds it.
  void Hold();
  void Release();

 private:
  struct Queue;
  static void CallJs(napi_env env, napi_value callback, void* context, void* data);
  static void Shutdown(void* data);

  napi_env env_ = nullptr;
  std::mutex mutex_;  // guards function_ against use after shutdown
  napi_threadsafe_function function_ = nullptr;
  bool closing_ = false;
  std::multiset<CancelFlag> running_;  // JS thread only
  int holds_ = 0;                      // JS thread only
};

}  // namespace lowbit
