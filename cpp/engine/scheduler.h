// engine/scheduler: the generations of one context, step by step in common runs.
//
// A generation runs by itself once it is started: the engine does not wait for its reader between tokens, so a busy event loop costs no
// speed. It may be kRunAhead tokens ahead of the reader, then it pauses. Every tick
//   - samples one token (more with right guesses) for each generation that is past its prompt, up to kSmallRows of them in one pass
//     over the weights; a prompt of at most kSmallRows tokens is read there, too;
//   - reads prompts, first come first served, in slices: while others generate, prompts and tokens get half of the time each, and a
//     token waits about as long as the step before it took, or for one op of a prompt run.
// Two threads use it: the owner's (Start, Read, End, Take) and the engine's (Tick, Abandon).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/context.h"
#include "engine/prompt_lookup.h"

namespace lowbit {

constexpr int64_t kRunAhead = 16;

struct GenerationRequest {
  int sequence = 0;
  int keep = 0;                 // tokens of the sequence to keep; what follows them is dropped
  std::vector<int32_t> prompt;  // appended behind them, at least one
  SampleOptions sampling;
  int64_t max_tokens = 1;            // at least 1
  std::vector<int32_t> stop_tokens;  // end the text and are no part of it
  PromptLookupOptions lookup;
  std::shared_ptr<std::atomic<bool>> cancel;  // as End, for an owner that cannot call; may be null
};

enum class GenerationPhase : uint8_t { kRunning, kStopToken, kLength, kFailed };

struct GenerationStats {
  double prompt_seconds = 0;  // from the first run that read a part of the prompt to the first token
  double decode_seconds = 0;  // from then on, without pauses for the reader
  int64_t decoded = 0;        // tokens sampled in that time, a stop token included
  int64_t guessed = 0, right = 0;
};

// What happened to a generation since the last Take.
struct GenerationNews {
  std::vector<int32_t> tokens;
  GenerationPhase phase = GenerationPhase::kRunning;  // behind these tokens
  Status status;                                      // of kFailed
  bool closed = false;                                // after End: the sequence is free, nothing follows
  int length = 0;                                     // of the sequence, once closed
  GenerationStats stats;
};

class Generation {
 private:
  friend class Scheduler;
  explicit Generation(GenerationRequest r) : request(std::move(r)), budget(request.lookup.max_tokens) {}

  GenerationRequest request;
  // Under the scheduler's lock.
  int64_t read = 0, end = -1;  // tokens the reader has; how many it wanted, -1 while it wants more
  GenerationNews news;
  bool fresh = false;  // news that Take has not seen
  std::atomic<bool> stop{false};
  // The engine's thread.
  GenerationPhase phase = GenerationPhase::kRunning;
  int64_t produced = 0;
  int prompt_done = 0;  // tokens of the prompt that are in the sequence
  int32_t next = -1;    // sampled, not yet in the sequence
  bool in_run = false;  // its sequence is in the context's prompt run
  bool ready = false, ending = false;
  std::vector<int32_t> text;  // with prompt lookup: the sequence and `next`
  GuessBudget budget;
  double started = 0, last = 0;  // seconds on the steady clock; 0 = not yet, or paused
  GenerationStats stats;
};

class Scheduler {
 public:
  // on_news: called on the engine's thread when Take has something.
  explicit Scheduler(std::function<void()> on_news) : on_news_(std::move(on_news)) {}

  // ---- the owner's thread ----
  // The sequence must not be in use. INVALID_ARGUMENT leaves it as it is.
  Result<std::shared_ptr<Generation>> Start(Context& context, GenerationRequest request);
  // The reader has its first `count` tokens.
  void Read(Generation& generation, int64_t count);
  // The reader wants no more than the first `count` tokens. The sequence is cut to what a generation of so many tokens leaves: all of
  // the prompt that was read and all tokens but the last. Take says when that is done. Also without effect on what is in flight:
  // must be called even for a generation that came to its end or failed.
  void End(Generation& generation, int64_t count);
  // False when there is no news.
  bool Take(Generation& generation, GenerationNews* news);
  // After Start, Read or End: whether Tick must be called (until it returns false), because nobody is doing that now.
  bool Wake();

  // ---- the engine's thread ----
  // One step. Whether there is more to do now.
  bool Tick(Context& context);
  // After a Tick that did not return: all running generations fail. Tick must be called again.
  void Abandon(Context& context, const Status& status);
  // Before the context goes: all generations are closed. Tick must not be called again.
  void CloseAll();

 private:
  using Member = std::shared_ptr<Generation>;
  bool PromptLeft(const Generation& g) const { return g.prompt_done < static_cast<int>(g.request.prompt.size()); }
  int Left(const Generation& g) const { return static_cast<int>(g.request.prompt.size()) - g.prompt_done; }
  bool Runs(const Generation& g) const { return g.phase == GenerationPhase::kRunning && !g.ending; }
  void CloseEnded(Context& context);
  double DecodeAll(Context& context);
  void DecodeGroup(Context& context, std::vector<Generation*> group, int spare_rows);
  void Guess(std::vector<Generation*> group, std::vector<DecodeItem>* items, int context_size, const Context& context, int spare_rows);
  void ReadPrompts(Context& context, bool others_decode);
  bool BeginPrompts(Context& context);
  // Takes tokens that were sampled behind the sequence's first `length` ones.
  void Accept(Context& context, Generation& g, std::span<const int32_t> sampled, int length, double now);
  void Publish(Generation& g, std::vector<int32_t> tokens, const Status& status);

  const std::function<void()> on_news_;
  std::mutex mutex_;
  std::vector<Member> inbox_;  // under the lock
  bool ticking_ = false;
  std::vector<Member> active_;  // the engine's thread, by age
  double balance_ = 0;          // seconds of decoding that prompts have not had yet
  bool published_ = false;
};

}  // namespace lowbit
