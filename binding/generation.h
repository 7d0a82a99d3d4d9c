// binding/: generations: what context.cc needs of generation.cc.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>

#include "handles.h"

namespace lowbit {

// For the scheduler of `state`: brings its news to the JS thread, one call for all generations of the context, however many tokens
// came since the last one. So the event loop gets at most one task per step of the engine, and fewer when it is busy.
std::function<void()> DeliverNews(Napi::Env env, const std::weak_ptr<ContextState>& state);

bool Generates(const ContextState& state, int sequence);

}  // namespace lowbit
