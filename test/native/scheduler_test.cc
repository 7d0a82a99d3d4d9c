// test/native: decode runs, prompt runs and the scheduler: what a sequence gets must not depend on who shares the run, on guesses, on
// how prompts are sliced, or on neighbours that come, go and fail.
#include "engine/scheduler.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>

#include "engine/worker.h"
#include "tiny_model.h"

using namespace lowbit;
using namespace lowbit_test;

namespace {

// Weights whose kernels compute a row alike for 1 to kSmallRows rows. A dense matrix takes another kernel for one row than for more,
// so tokens agree there, bits do not.
struct Kind {
  const char* dtype;
  bool fast, bits;
};
const std::vector<Kind> kKinds = {{"Q4_0", true, true}, {"Q4_1", true, true},  {"Q8_0", true, true},  {"Q4_K", true, true},
                                  {"Q6_K", true, true}, {"Q4_0", false, true}, {"BF16", true, false}, {"F32", false, false}};

std::unique_ptr<Context> NewContext(const std::shared_ptr<Model>& model, int size, int sequences) {
  auto context = Context::Create(model, size, sequences, true);
  EXPECT(context.ok());
  return std::move(context.value());
}

struct Outcome {
  std::vector<int32_t> tokens;
  GenerationPhase phase = GenerationPhase::kRunning;
  Status status;
  GenerationNews end;
};

// The owner of a scheduler: reads everything as it comes, ends what is over.
struct Owner {
  Context& context;
  Scheduler scheduler{[] {}};
  std::vector<std::shared_ptr<Generation>> running;
  std::vector<Outcome> outcomes;
  std::vector<bool> ended;
  std::vector<int64_t> limits;  // end after so many tokens

  explicit Owner(Context& c) : context(c) {}

  size_t Start(GenerationRequest request, int64_t limit = 1 << 30) {
    auto g = scheduler.Start(context, std::move(request));
    EXPECT(g.ok());
    running.push_back(g.value());
    outcomes.emplace_back();
    ended.push_back(false);
    limits.push_back(limit);
    (void)scheduler.Wake();
    return running.size() - 1;
  }
  void End(size_t i) {
    if (ended[i]) return;
    ended[i] = true;
    const bool stopped = outcomes[i].phase == GenerationPhase::kStopToken;
    scheduler.End(*running[i], static_cast<int64_t>(outcomes[i].tokens.size()) + (stopped ? 1 : 0));
    (void)scheduler.Wake();
  }
  bool Tick() {
    const bool more = scheduler.Tick(context);
    for (size_t i = 0; i < running.size(); ++i) {
      GenerationNews news;
      if (!scheduler.Take(*running[i], &news)) continue;
      Outcome& o = outcomes[i];
      if (!ended[i]) {
        for (int32_t token : news.tokens)
          if (static_cast<int64_t>(o.tokens.size()) < limits[i]) o.tokens.push_back(token);
        o.phase = news.phase;
        o.status = news.status;
        scheduler.Read(*running[i], static_cast<int64_t>(o.tokens.size()));
        if (o.phase != GenerationPhase::kRunning || static_cast<int64_t>(o.tokens.size()) >= limits[i]) End(i);
      }
      if (news.closed) o.end = news;
    }
    return more || scheduler.Wake();
  }
  // Until everything is closed.
  void Finish() {
    for (int i = 0; i < 100000; ++i) {
      (void)Tick();
      if (std::all_of(outcomes.begin(), outcomes.end(), [](const Outcome& o) { return o.end.closed; })) return;
    }
    EXPECT(!"the generations come to an end");
  }
};

GenerationRequest Request(int sequence, std::vector<int32_t> prompt, int max_tokens, uint64_t seed = 0) {
  GenerationRequest r;
  r.sequence = sequence;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  if (seed > 0) {
    r.sampling.temperature = 1.5f;
    r.sampling.top_p = 0.95f;
    r.sampling.repeat_penalty = 1.1f;
    r.sampling.seed = seed;
  }
  return r;
}

// The tokens and the fingerprint of a request alone in a context.
std::pair<Outcome, std::vector<float>> Alone(const std::shared_ptr<Model>& model, GenerationRequest request, int64_t limit = 1 << 30) {
  auto context = NewContext(model, 1024, 1);
  request.sequence = 0;
  Owner owner(*context);
  owner.Start(std::move(request), limit);
  owner.Finish();
  return {owner.outcomes[0], Fingerprint(*context, 0)};
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

// Token by token with Step, which knows nothing of the scheduler, is the reference of everything below.
LOWBIT_TEST(SchedulerGeneratesWhatStepsGive) {
  for (const Kind& kind : kKinds) {
    const auto model = TinyModel(kind.dtype, kind.fast, 2);
    if (model == nullptr) continue;
    for (int length : {1, 5, 8, 9, 40}) {
      const GenerationRequest request = Request(0, RandomTokens(3, length), 20, 9);
      auto context = NewContext(model, 64, 1);
      std::vector<int32_t> expected;
      StepRequest step;
      step.tokens = request.prompt;
      step.sample = true;
      step.sampling = request.sampling;
      for (int i = 0; i < 20; ++i) {
        const auto token = context->Step(step, {});
        if (!EXPECT(token.ok())) break;
        expected.push_back(token.value());
        step.tokens = {token.value()};
      }
      const auto [outcome, print] = Alone(model, request);
      EXPECT(outcome.tokens == expected);
      EXPECT(outcome.phase == GenerationPhase::kLength);
      EXPECT(outcome.end.length == length + 19);
      EXPECT(outcome.end.stats.decoded == 19);
      // A prompt of up to kSmallRows tokens takes the kernels for few rows in both.
      if (kind.bits) EXPECT(SameBits(print, Fingerprint(*context, 0)));
    }
  }
}

LOWBIT_TEST(SchedulerResultsDoNotDependOnCompany) {
  for (const Kind& kind : kKinds) {
    const auto model = TinyModel(kind.dtype, kind.fast, 2);
    if (model == nullptr) continue;
    // 1 to 8 tokens are read beside decoding rows, more in prompt runs, 520 and 600 in two of them.
    const std::vector<int> lengths = {3, 70, 520, 1, 9, 8, 200, 600, 17, 2};
    std::vector<GenerationRequest> requests;
    for (size_t i = 0; i < lengths.size(); ++i)
      requests.push_back(Request(static_cast<int>(i), RandomTokens(static_cast<uint32_t>(i), lengths[i]), 12 + 3 * static_cast<int>(i % 4),
                                 i % 2 * (i + 1)));
    auto context = NewContext(model, 1024, static_cast<int>(requests.size()));
    std::mt19937 random(1);
    Owner owner(*context);
    for (const GenerationRequest& request : requests) {
      owner.Start(request);
      for (unsigned ticks = random() % 4; ticks > 0; --ticks) (void)owner.Tick();
    }
    owner.Finish();
    for (size_t i = 0; i < requests.size(); ++i) {
      const auto [expected, print] = Alone(model, requests[i]);
      EXPECT(owner.outcomes[i].tokens == expected.tokens);
      EXPECT(expected.phase == owner.outcomes[i].phase && expected.end.length == owner.outcomes[i].end.length);
      if (kind.bits) EXPECT(SameBits(print, Fingerprint(*context, static_cast<int>(i))));
    }
  }
}

// Prompts that repeat themselves, so that guesses are made, right and wrong; greedy models of random weights fall into loops, too.
LOWBIT_TEST(SchedulerGuessesChangeNothing) {
  int64_t guessed = 0, right = 0;
  for (const Kind& kind : kKinds) {
    const auto model = TinyModel(kind.dtype, kind.fast, 2);
    if (model == nullptr) continue;
    for (int window : {0, 24}) {
      const auto windowed = window == 0 ? model : TinyModel(kind.dtype, kind.fast, 2, window);
      for (uint64_t seed = 0; seed < 4; ++seed) {
        std::vector<int32_t> prompt = RandomTokens(40 + static_cast<uint32_t>(seed), 12);
        const size_t once = prompt.size();
        for (size_t i = 0; i < 3 * once; ++i) prompt.push_back(prompt[i % once]);
        GenerationRequest request = Request(0, prompt, 90, seed);
        if (seed > 0) request.sampling.temperature = 0.4f;
        if (seed == 3) request.sampling.repeat_last_n = -1;
        const auto [plain, print] = Alone(windowed, request);
        for (int most : {1, 4, 7, 100}) {
          request.lookup = {.max_tokens = most, .ngram = 1 + most % 3};
          const auto [outcome, guessed_print] = Alone(windowed, request);
          EXPECT(outcome.tokens == plain.tokens);
          EXPECT(outcome.end.length == plain.end.length);
          EXPECT(outcome.end.stats.decoded == plain.end.stats.decoded);
          if (kind.bits) EXPECT(SameBits(print, guessed_print));
          guessed += outcome.end.stats.guessed;
          right += outcome.end.stats.right;
        }
      }
    }
  }
  EXPECT(right > 500 && guessed > right);  // both happened
}

// Every way to end, in the middle of runs of right guesses: the sequence must hold what plain decoding leaves.
LOWBIT_TEST(SchedulerEndsInTheMiddleOfGuesses) {
  const auto model = TinyModel("Q8_0", true, 1);
  if (model == nullptr) return;
  std::vector<int32_t> prompt;
  for (int i = 0; i < 40; ++i) prompt.push_back(5 + i % 4);
  const auto [plain, unused] = Alone(model, Request(0, prompt, 60));
  for (int limit = 1; limit <= 60; ++limit) {
    for (int way = 0; way < 3; ++way) {
      GenerationRequest request = Request(0, prompt, way == 0 ? limit : 60);
      const int32_t stop = plain.tokens[static_cast<size_t>(limit) - 1];
      if (way == 1) request.stop_tokens = {kPoison, stop};
      const int64_t reader = way == 2 ? limit : 1 << 30;
      const auto [expected, print] = Alone(model, request, reader);
      request.lookup = {.max_tokens = 7, .ngram = 2};
      const auto [outcome, guessed_print] = Alone(model, request, reader);
      EXPECT(outcome.tokens == expected.tokens);
      if (way < 2) EXPECT(outcome.phase == expected.phase);
      EXPECT(outcome.end.length == expected.end.length && SameBits(print, guessed_print));
      const auto first = std::find(plain.tokens.begin(), plain.tokens.end(), stop) - plain.tokens.begin();
      const int64_t count = way == 1 ? first : limit;
      EXPECT(static_cast<int64_t>(outcome.tokens.size()) == count);
      EXPECT(outcome.end.length == 40 + (way == 1 ? count : count - 1));
    }
  }
}

LOWBIT_TEST(SchedulerJoinsLeavesAndFailures) {
  const auto model = TinyModel("Q4_0", false, 2);
  if (model == nullptr) return;
  constexpr int kSequences = 6;
  auto context = NewContext(model, 700, kSequences);
  std::mt19937 random(77);
  Owner owner(*context);
  std::vector<GenerationRequest> requests;
  std::vector<int> in_use(kSequences, -1);
  int failed = 0, left_early = 0;
  for (int round = 0; round < 400; ++round) {
    const int s = static_cast<int>(random() % kSequences);
    int& index = in_use[static_cast<size_t>(s)];
    if (index >= 0 && owner.outcomes[static_cast<size_t>(index)].end.closed) index = -1;
    if (index < 0 && requests.size() < 60) {
      const int length = random() % 5 == 0 ? 530 : 1 + static_cast<int>(random() % 40);
      GenerationRequest request =
          Request(s, RandomTokens(static_cast<uint32_t>(round), length), 1 + static_cast<int>(random() % 30), random() % 3);
      if (random() % 5 == 0) request.prompt[random() % request.prompt.size()] = kPoison;
      if (random() % 2 == 0) request.lookup = {.max_tokens = 5, .ngram = 2};
      index = static_cast<int>(owner.Start(request));
      requests.push_back(request);
    } else if (index >= 0 && random() % 8 == 0) {
      owner.End(static_cast<size_t>(index));
      ++left_early;
    }
    for (unsigned ticks = random() % 3; ticks > 0; --ticks) (void)owner.Tick();
  }
  owner.Finish();
  for (size_t i = 0; i < requests.size(); ++i) {
    const Outcome& outcome = owner.outcomes[i];
    const bool poisoned = std::count(requests[i].prompt.begin(), requests[i].prompt.end(), kPoison) > 0;
    if (outcome.phase == GenerationPhase::kFailed) {
      ++failed;
      EXPECT(poisoned || outcome.tokens.back() == kPoison);  // or it came to that by itself
      EXPECT_ERROR(outcome.status, Code::kInvalidArgument, "not finite");
      continue;
    }
    EXPECT(!poisoned || outcome.tokens.empty());
    if (poisoned) continue;
    const auto [expected, unused] = Alone(model, requests[i]);
    const size_t count = outcome.tokens.size();
    EXPECT(count <= expected.tokens.size() && std::equal(outcome.tokens.begin(), outcome.tokens.end(), expected.tokens.begin()));
    if (outcome.phase == GenerationPhase::kLength) EXPECT(count == expected.tokens.size());
  }
  EXPECT(requests.size() == 60 && failed > 3 && left_early > 3);
}

// As the binding runs it: ticks on a worker, everything else on this thread. For the thread sanitizer, too.
LOWBIT_TEST(SchedulerServesAnotherThread) {
  const auto model = TinyModel("Q8_0", true, 2);
  if (model == nullptr) return;
  constexpr int kSequences = 5, kRounds = 12;
  auto context = NewContext(model, 600, kSequences);
  std::mutex mutex;
  std::condition_variable changed;
  bool news = false;
  Scheduler scheduler([&] {
    std::lock_guard<std::mutex> lock(mutex);
    news = true;
    changed.notify_one();
  });
  Worker worker;
  std::function<void()> tick = [&] {
    worker.Post([&] {
      if (scheduler.Tick(*context)) tick();
    });
  };
  const auto wake = [&] {
    if (scheduler.Wake()) tick();
  };
  struct Slot {
    std::shared_ptr<Generation> generation;
    GenerationRequest request;
    std::vector<int32_t> tokens;
    size_t limit = 0;
    bool ended = false;
    int rounds = 0;
  };
  std::vector<Slot> slots(kSequences);
  std::mt19937 random(4);
  std::vector<std::pair<GenerationRequest, std::vector<int32_t>>> done;
  while (std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.rounds < kRounds; })) {
    for (int s = 0; s < kSequences; ++s) {
      Slot& slot = slots[static_cast<size_t>(s)];
      if (slot.generation == nullptr && slot.rounds < kRounds) {
        const int length = 1 + static_cast<int>(random() % (slot.rounds == 5 ? 550 : 30));
        slot.request = Request(s, RandomTokens(random(), length), 1 + static_cast<int>(random() % 25), random() % 2);
        slot.request.lookup.max_tokens = static_cast<int>(random() % 4);
        slot.limit = 1 + random() % 30;
        slot.tokens.clear();
        slot.ended = false;
        auto g = scheduler.Start(*context, slot.request);
        if (!EXPECT(g.ok())) return;
        slot.generation = g.value();
        wake();
      }
      GenerationNews got;
      if (slot.generation == nullptr || !scheduler.Take(*slot.generation, &got)) continue;
      if (!slot.ended) {
        slot.tokens.insert(slot.tokens.end(), got.tokens.begin(), got.tokens.end());
        const int64_t count = static_cast<int64_t>(slot.tokens.size());
        slot.ended = got.phase != GenerationPhase::kRunning || slot.tokens.size() >= slot.limit;
        if (slot.ended)
          scheduler.End(*slot.generation, count);
        else
          scheduler.Read(*slot.generation, count);
        wake();
      }
      if (got.closed) {
        EXPECT(context->length(s) == got.length);
        done.push_back({slot.request, slot.tokens});
        slot.generation = nullptr;
        ++slot.rounds;
      }
    }
    std::unique_lock<std::mutex> lock(mutex);
    // Whoever has just been started or closed goes on at once.
    const bool idle = std::all_of(slots.begin(), slots.end(), [](const Slot& s) { return s.generation != nullptr || s.rounds == kRounds; });
    if (idle && std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.generation != nullptr; }))
      changed.wait(lock, [&] { return news; });
    news = false;
  }
  EXPECT(done.size() == size_t(kSequences * kRounds));
  for (size_t i = 0; i < done.size(); i += 3) {
    const auto [expected, unused] = Alone(model, done[i].first);
    EXPECT(done[i].second.size() <= expected.tokens.size() &&
           std::equal(done[i].second.begin(), done[i].second.end(), expected.tokens.begin()));
  }
}

LOWBIT_TEST(SchedulerPausesForItsReader) {
  const auto model = TinyModel("Q8_0", true, 1);
  if (model == nullptr) return;
  auto context = NewContext(model, 256, 2);
  Scheduler scheduler([] {});
  auto g = scheduler.Start(*context, Request(0, RandomTokens(1, 4), 200));
  auto other = scheduler.Start(*context, Request(1, RandomTokens(2, 4), 40));
  if (!EXPECT(g.ok() && other.ok())) return;
  EXPECT(scheduler.Wake() && !scheduler.Wake());
  int64_t seen = 0, other_seen = 0;
  const auto run = [&](bool read_other) {
    for (bool more = true; more;) {
      more = scheduler.Tick(*context);
      GenerationNews news;
      if (read_other && scheduler.Take(*other.value(), &news))
        scheduler.Read(*other.value(), other_seen += static_cast<int64_t>(news.tokens.size()));
    }
    GenerationNews news;
    if (scheduler.Take(*g.value(), &news)) seen += static_cast<int64_t>(news.tokens.size());
  };
  run(true);
  EXPECT(seen == kRunAhead && other_seen == 40);  // the one that is read goes on
  scheduler.Read(*g.value(), 10);
  EXPECT(scheduler.Wake());
  run(false);
  EXPECT(seen == kRunAhead + 10);
  scheduler.End(*g.value(), 3);
  EXPECT(scheduler.Wake());
  run(false);
  EXPECT(context->length(0) == 4 + 2);  // what was ahead of the reader is gone
}

LOWBIT_TEST(SchedulerChecksRequests) {
  const auto model = TinyModel("F32", false, 1);
  if (model == nullptr) return;
  auto context = NewContext(model, 16, 2);
  Scheduler scheduler([] {});
  const auto start = [&](auto change) {
    GenerationRequest request = Request(0, {1, 2, 3}, 4);
    change(request);
    return scheduler.Start(*context, request).status();
  };
  EXPECT_ERROR(start([](auto& r) { r.sequence = 2; }), Code::kInvalidArgument, "between 0 and 1 for sequence");
  EXPECT_ERROR(start([](auto& r) { r.sequence = -1; }), Code::kInvalidArgument, "sequence");
  EXPECT_ERROR(start([](auto& r) { r.prompt.clear(); }), Code::kInvalidArgument, "at least one token");
  EXPECT_ERROR(start([](auto& r) { r.prompt[1] = kVocab; }), Code::kInvalidArgument, "outside the model's vocabulary");
  EXPECT_ERROR(start([](auto& r) { r.prompt.assign(17, 1); }), Code::kInvalidArgument, "Context overflow");
  EXPECT_ERROR(start([](auto& r) { r.keep = 1; }), Code::kInvalidArgument, "for keep");
  EXPECT_ERROR(start([](auto& r) { r.max_tokens = 0; }), Code::kInvalidArgument, "maxTokens");
  // The end of the context, with a guess for every free place.
  for (int guesses : {0, 7}) {
    Owner owner(*context);
    GenerationRequest request = Request(1, {4, 4, 4, 4, 4, 4}, 100);
    request.lookup.max_tokens = guesses;
    owner.Start(request);
    owner.Finish();
    EXPECT(owner.outcomes[0].phase == GenerationPhase::kLength && owner.outcomes[0].tokens.size() == 11);
    EXPECT(context->length(1) == 16);
    context->Truncate(1, 0);
  }
}

LOWBIT_TEST(DecodeChecksEverythingBeforeItRuns) {
  const auto model = TinyModel("Q8_0", false, 1);
  if (model == nullptr) return;
  auto context = NewContext(model, 16, 3);
  std::vector<DecodeItem> items(2);
  items[0].tokens = {1, 2};
  items[1].sequence = 1;
  items[1].tokens = {3};
  const auto refused = [&](auto change, Code code, const char* text) {
    auto bad = items;
    change(bad);
    EXPECT_ERROR(context->Decode(bad), code, text);
    EXPECT(context->length(0) == 0 && context->length(1) == 0);
  };
  refused([](auto& i) { i[1].sequence = 3; }, Code::kInvalidArgument, "sequence");
  refused([](auto& i) { i[1].sequence = 0; }, Code::kInternal, "twice");
  refused([](auto& i) { i[1].tokens = {-1}; }, Code::kInvalidArgument, "vocabulary");
  refused([](auto& i) { i[1].tokens = {}; }, Code::kInvalidArgument, "at least one");
  refused([](auto& i) { i[1].guesses = 1; }, Code::kInternal, "guesses");
  refused([](auto& i) { i[1].tokens.assign(kSmallRows - 1, 1); }, Code::kInternal, "rows");
  items[1].tokens = {kPoison};  // fails alone
  EXPECT(context->Decode(items).ok());
  EXPECT(items[0].status.ok() && items[0].sampled.size() == 1 && context->length(0) == 2);
  EXPECT(!items[1].status.ok() && items[1].sampled.empty() && context->length(1) == 0);
}

LOWBIT_TEST(PromptRunsAreWholeOrNothing) {
  const auto model = TinyModel("Q8_0", false, 1);
  if (model == nullptr) return;
  auto context = NewContext(model, 64, 2);
  EXPECT(context->PromptChunk(64) == 64 && context->PromptChunk(5) == 5);
  auto large = NewContext(model, 2048, 1);
  for (int left : {511, 512, 513, 520, 521, 600, 1024, 2048}) {
    int rest = left;
    while (rest > 0) {
      const int chunk = large->PromptChunk(rest);
      EXPECT(chunk > kSmallRows && chunk <= large->max_prompt_rows());
      rest -= chunk;
    }
    EXPECT(rest == 0);
  }
  std::vector<PromptItem> items(2);
  items[0].tokens = RandomTokens(1, 20);
  items[0].sample = true;
  items[1].sequence = 1;
  items[1].tokens = RandomTokens(2, kSmallRows + 1);
  items[1].tokens[4] = kPoison;
  items[1].sample = true;
  std::atomic<bool> cancel{false};
  EXPECT(context->BeginPrompts(items).ok());
  EXPECT(context->AdvancePrompts(0, &cancel).ok());
  EXPECT(context->length(0) == 0);
  cancel = true;
  EXPECT_ERROR(context->AdvancePrompts(0, &cancel).status(), Code::kCancelled, "aborted");
  EXPECT_ERROR(context->AdvancePrompts(0, nullptr).status(), Code::kInternal, "no prompt run");
  EXPECT(context->TakePrompts().empty());
  EXPECT(context->BeginPrompts(items).ok());
  int slices = 1;
  for (auto done = context->AdvancePrompts(0, nullptr); EXPECT(done.ok()) && !done.value(); done = context->AdvancePrompts(0, nullptr))
    ++slices;
  EXPECT(slices > 10);
  const std::vector<PromptItem> done = context->TakePrompts();
  if (!EXPECT(done.size() == 2)) return;
  EXPECT(done[0].sampled >= 0 && context->length(0) == 20);
  EXPECT(!done[1].status.ok() && context->length(1) == 0);
  items[0].tokens.resize(kSmallRows);
  EXPECT_ERROR(context->BeginPrompts(items), Code::kInternal, "is read by Decode");
}
