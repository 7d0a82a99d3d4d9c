// engine/scheduler: see scheduler.h.
#include "engine/scheduler.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace lowbit {
namespace {

// Work on prompts between two looks at what else is to do: the other contexts of the model, new generations, ended ones.
constexpr double kSlice = 0.02;
// Bounds of what prompts and tokens may owe each other, so that an old debt does not stop either for long.
constexpr double kMostCredit = 0.02, kMostDebt = 0.2;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

// ---- the owner's thread ------------------------------------------------------------------------------------------------------------

Result<std::shared_ptr<Generation>> Scheduler::Start(Context& context, GenerationRequest request) {
  if (request.sequence >= 0 && request.sequence < context.sequences() &&
      (request.keep < 0 || request.keep > context.length(request.sequence)))
    return Error(Code::kInvalidArgument, "Expected integer between 0 and %d for keep but received %d", context.length(request.sequence),
                 request.keep);
  LOWBIT_RETURN_IF_ERROR(context.CheckTokens(request.sequence, request.keep, request.prompt));
  if (request.max_tokens < 1) return Error(Code::kInvalidArgument, "Expected a positive integer for maxTokens");
  request.lookup.max_tokens = std::min(request.lookup.max_tokens, kSmallRows - 1);
  context.Truncate(request.sequence, request.keep);
  Member g(new Generation(std::move(request)));
  if (g->request.lookup.max_tokens > 0) {
    const std::span<const int32_t> kept = context.tokens(g->request.sequence);
    g->text.assign(kept.begin(), kept.end());
    g->text.insert(g->text.end(), g->request.prompt.begin(), g->request.prompt.end());
  }
  std::lock_guard<std::mutex> lock(mutex_);
  inbox_.push_back(g);
  return g;
}

void Scheduler::Read(Generation& g, int64_t count) {
  std::lock_guard<std::mutex> lock(mutex_);
  g.read = std::max(g.read, count);
}

void Scheduler::End(Generation& g, int64_t count) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (g.end < 0) g.end = std::max<int64_t>(0, count);
  g.stop.store(true, std::memory_order_relaxed);
}

bool Scheduler::Take(Generation& g, GenerationNews* news) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!std::exchange(g.fresh, false)) return false;
  *news = g.news;
  g.news.tokens.clear();
  return true;
}

bool Scheduler::Wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  return !std::exchange(ticking_, true);
}

// ---- the engine's thread -----------------------------------------------------------------------------------------------------------

bool Scheduler::Tick(Context& context) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    active_.insert(active_.end(), inbox_.begin(), inbox_.end());
    inbox_.clear();
    for (const Member& g : active_) {
      if (g->end < 0 && g->request.cancel != nullptr && g->request.cancel->load(std::memory_order_relaxed)) g->end = g->read;
      g->ending = g->end >= 0;
      g->ready = g->produced - g->read < kRunAhead;
      if (!g->ready) g->last = 0;
    }
  }
  CloseEnded(context);
  const double decoding = DecodeAll(context);
  balance_ = std::min(balance_ + decoding, kMostCredit);
  ReadPrompts(context, decoding > 0);
  if (std::exchange(published_, false)) on_news_();

  std::lock_guard<std::mutex> lock(mutex_);
  bool more = !inbox_.empty();
  for (const Member& g : active_) {
    const bool running = g->phase == GenerationPhase::kRunning;
    more |= g->end >= 0 || (running && (PromptLeft(*g) || g->produced - g->read < kRunAhead));
  }
  ticking_ = more;
  return more;
}

void Scheduler::CloseEnded(Context& context) {
  // A prompt run goes on for its other members; one that nobody wants is dropped.
  const auto in_run = [](const Member& g) { return g->in_run; };
  if (std::none_of(active_.begin(), active_.end(), [](const Member& g) { return g->in_run && !g->ending; })) {
    context.DropPrompts();
    for (const Member& g : active_) g->in_run = false;
  }
  std::vector<Member> left;
  for (const Member& g : active_) {
    if (!g->ending || in_run(g)) {
      left.push_back(g);
      continue;
    }
    const int sequence = g->request.sequence;
    const int64_t prompt = g->request.keep + static_cast<int64_t>(g->request.prompt.size());
    std::lock_guard<std::mutex> lock(mutex_);
    context.Truncate(sequence, static_cast<int>(std::min<int64_t>(context.context_size(), prompt + std::max<int64_t>(0, g->end - 1))));
    g->news.closed = true;
    g->news.length = context.length(sequence);
    g->news.stats = g->stats;
    g->fresh = published_ = true;
  }
  active_ = std::move(left);
}

double Scheduler::DecodeAll(Context& context) {
  std::vector<Generation*> all;
  int rows = 0;
  for (const Member& g : active_) {
    if (!Runs(*g) || !g->ready || Left(*g) > kSmallRows || g->in_run) continue;
    all.push_back(g.get());
    rows += std::max(1, Left(*g));
  }
  if (all.empty()) return 0;
  const double start = Now();
  for (size_t begin = 0; begin < all.size();) {
    std::vector<Generation*> group;
    int used = 0;
    for (size_t i = begin; i < all.size() && used + std::max(1, Left(*all[i])) <= kSmallRows; ++i) {
      used += std::max(1, Left(*all[i]));
      group.push_back(all[i]);
    }
    begin += group.size();
    // Rows that are free beside everybody's next token are for guesses; a second pass over the weights is not.
    DecodeGroup(context, std::move(group), rows <= kSmallRows ? kSmallRows - rows : 0);
    if (begin < all.size() && std::exchange(published_, false)) on_news_();
  }
  return Now() - start;
}

void Scheduler::Guess(std::vector<Generation*> group, std::vector<DecodeItem>* items, int context_size, const Context& context,
                      int spare_rows) {
  std::vector<int32_t> guesses;
  size_t rest = group.size();
  for (size_t i = 0; i < group.size() && spare_rows > 0; ++i, --rest) {
    Generation& g = *group[i];
    if (g.request.lookup.max_tokens == 0 || PromptLeft(g)) continue;
    const int64_t room = std::min<int64_t>(context_size - context.length(g.request.sequence) - 1, g.request.max_tokens - g.produced - 1);
    // Rounded up: those who need nothing leave more for the others.
    const int share = (spare_rows + static_cast<int>(rest) - 1) / static_cast<int>(rest);
    const int count = static_cast<int>(std::min<int64_t>(std::min(share, g.budget.Count()), room));
    LookUp(g.text, g.request.lookup.ngram, count, &guesses);
    (*items)[i].tokens.insert((*items)[i].tokens.end(), guesses.begin(), guesses.end());
    (*items)[i].guesses = static_cast<int>(guesses.size());
    spare_rows -= (*items)[i].guesses;
  }
}

void Scheduler::DecodeGroup(Context& context, std::vector<Generation*> group, int spare_rows) {
  std::vector<DecodeItem> items(group.size());
  const double start = Now();
  for (size_t i = 0; i < group.size(); ++i) {
    Generation& g = *group[i];
    items[i].sequence = g.request.sequence;
    items[i].sampling = g.request.sampling;
    if (PromptLeft(g))
      items[i].tokens.assign(g.request.prompt.begin() + g.prompt_done, g.request.prompt.end());
    else
      items[i].tokens.push_back(g.next);
    if (g.started == 0) g.started = start;
    if (g.last == 0) g.last = start;
  }
  Guess(group, &items, context.context_size(), context, spare_rows);
  const Status status = context.Decode(items);
  const double now = Now();
  for (size_t i = 0; i < group.size(); ++i) {
    Generation& g = *group[i];
    const DecodeItem& item = items[i];
    if (!status.ok() || !item.status.ok()) {
      Publish(g, {}, status.ok() ? item.status : status);
      continue;
    }
    const int right = static_cast<int>(item.sampled.size()) - 1;
    if (item.guesses > 0) {
      g.budget.Learn(item.guesses, right);
      g.stats.guessed += item.guesses;
      g.stats.right += right;
    }
    g.prompt_done = static_cast<int>(g.request.prompt.size());
    Accept(context, g, item.sampled, context.length(g.request.sequence) - right, now);
  }
}

void Scheduler::Accept(Context& context, Generation& g, std::span<const int32_t> sampled, int length, double now) {
  std::vector<int32_t> tokens;
  const std::vector<int32_t>& stops = g.request.stop_tokens;
  int64_t decoded = 0;
  for (size_t i = 0; i < sampled.size() && g.phase == GenerationPhase::kRunning; ++i) {
    g.next = sampled[i];
    ++decoded;
    if (std::find(stops.begin(), stops.end(), g.next) != stops.end()) {
      g.phase = GenerationPhase::kStopToken;
    } else {
      tokens.push_back(g.next);
      ++g.produced;
      if (g.produced == g.request.max_tokens || length + static_cast<int>(i) == context.context_size()) g.phase = GenerationPhase::kLength;
    }
    if (g.phase != GenerationPhase::kRunning) context.Truncate(g.request.sequence, length + static_cast<int>(i));
  }
  if (g.request.lookup.max_tokens > 0) g.text.insert(g.text.end(), tokens.begin(), tokens.end());
  if (g.stats.prompt_seconds == 0) {
    g.stats.prompt_seconds = now - g.started;
  } else {
    g.stats.decode_seconds += now - g.last;
    g.stats.decoded += decoded;
  }
  g.last = now;
  Publish(g, std::move(tokens), Status::Ok());
}

void Scheduler::Publish(Generation& g, std::vector<int32_t> tokens, const Status& status) {
  if (!status.ok()) g.phase = GenerationPhase::kFailed;
  std::lock_guard<std::mutex> lock(mutex_);
  g.news.tokens.insert(g.news.tokens.end(), tokens.begin(), tokens.end());
  g.news.phase = g.phase;
  g.news.status = status;
  g.news.stats = g.stats;
  g.fresh = published_ = true;
}

bool Scheduler::BeginPrompts(Context& context) {
  std::vector<PromptItem> items;
  std::vector<Generation*> members;
  int rows = context.max_prompt_rows();
  for (const Member& g : active_) {
    if (!Runs(*g) || Left(*g) <= kSmallRows) continue;
    const int chunk = context.PromptChunk(Left(*g));
    if (chunk > rows) continue;  // how a prompt is cut must not depend on the others
    rows -= chunk;
    PromptItem item;
    item.sequence = g->request.sequence;
    const auto begin = g->request.prompt.begin() + g->prompt_done;
    item.tokens.assign(begin, begin + chunk);
    item.sample = chunk == Left(*g);
    item.sampling = g->request.sampling;
    items.push_back(std::move(item));
    members.push_back(g.get());
  }
  if (items.empty()) return false;
  const Status status = context.BeginPrompts(std::move(items));
  for (Generation* g : members) {
    if (!status.ok()) Publish(*g, {}, status);
    g->in_run = status.ok();
    if (g->started == 0) g->started = Now();
  }
  return status.ok();
}

void Scheduler::ReadPrompts(Context& context, bool others_decode) {
  const auto in_run = [](const Member& g) { return g->in_run; };
  if (!others_decode) balance_ = 0;
  if (balance_ < 0) return;
  if (std::none_of(active_.begin(), active_.end(), in_run) && !BeginPrompts(context)) return;
  const auto members = std::count_if(active_.begin(), active_.end(), in_run);
  const std::atomic<bool>* stop = members == 1 ? &(*std::find_if(active_.begin(), active_.end(), in_run))->stop : nullptr;
  const double start = Now();
  const Result<bool> complete = context.AdvancePrompts(others_decode ? balance_ : kSlice, stop);
  const double now = Now();
  if (others_decode) balance_ = std::max(balance_ - (now - start), -kMostDebt);
  if (complete.ok() && !complete.value()) return;

  const std::vector<PromptItem> items = context.TakePrompts();
  for (const Member& g : active_) {
    if (!std::exchange(g->in_run, false)) continue;
    if (!complete.ok()) {
      if (!g->stop.load(std::memory_order_relaxed)) Publish(*g, {}, complete.status());
      continue;
    }
    const auto item = std::find_if(items.begin(), items.end(), [&](const PromptItem& i) { return i.sequence == g->request.sequence; });
    if (!item->status.ok()) {
      Publish(*g, {}, item->status);
      continue;
    }
    g->prompt_done += static_cast<int>(item->tokens.size());
    if (item->sample && !g->ending) Accept(context, *g, {&item->sampled, 1}, context.length(item->sequence), now);
  }
}

void Scheduler::Abandon(Context& context, const Status& status) {
  context.DropPrompts();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    active_.insert(active_.end(), inbox_.begin(), inbox_.end());
    inbox_.clear();
  }
  for (const Member& g : active_) {
    g->in_run = false;
    if (g->phase == GenerationPhase::kRunning) Publish(*g, {}, status);
  }
  published_ = false;
  on_news_();
}

void Scheduler::CloseAll() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    active_.insert(active_.end(), inbox_.begin(), inbox_.end());
    inbox_.clear();
    for (const Member& g : active_) g->news.closed = g->fresh = true;
  }
  active_.clear();
  on_news_();
}

}  // namespace lowbit
