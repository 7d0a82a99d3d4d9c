// test/native: trials: variants in place of weights, against the same model measured in full by a context of its own.
#include "engine/trials.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "check.h"
#include "engine/calibration.h"
#include "engine/context.h"
#include "engine/divergence.h"
#include "kernel_tables.h"
#include "tiny_model.h"

using namespace lowbit;
using namespace lowbit_test;

namespace {

SolveRequest Round(int weight, int bits, int group_size = 64) {
  SolveRequest request;
  request.weight = weight;
  request.method = Method::kRtn;
  request.options.base.bits = bits;
  request.options.base.group_size = group_size;
  return request;
}

struct Samples {
  std::vector<int32_t> tokens, offsets = {0};
};

Samples TwoSamples() {
  Samples samples;
  for (const int length : {70, 45}) {
    const std::vector<int32_t> more = RandomTokens(uint32_t(length), length);
    samples.tokens.insert(samples.tokens.end(), more.begin(), more.end());
    samples.offsets.push_back(static_cast<int32_t>(samples.tokens.size()));
  }
  return samples;
}

// Logits [tokens][vocab] of a sample by way of a context.
std::vector<float> Logits(const std::shared_ptr<Model>& model, std::vector<int32_t> tokens) {
  auto context = Context::Create(model, static_cast<int>(tokens.size()), 1, /*kv_f16=*/false);
  EXPECT(context.ok());
  std::vector<float> logits(tokens.size() * kVocab);
  StepRequest request;
  request.tokens = std::move(tokens);
  request.logits = logits.data();
  EXPECT(context.value()->Step(request, {}).ok());
  return logits;
}

std::vector<float> AllLogits(const std::shared_ptr<Model>& model, const Samples& samples) {
  std::vector<float> all;
  for (size_t s = 0; s + 1 < samples.offsets.size(); ++s) {
    const auto begin = samples.tokens.begin() + samples.offsets[s], end = samples.tokens.begin() + samples.offsets[s + 1];
    const std::vector<float> logits = Logits(model, {begin, end});
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

// Mean divergence behind rows 32 on of each sample.
double MeanDivergence(const std::vector<float>& reference, const std::vector<float>& logits, const Samples& samples) {
  double sum = 0;
  int rows = 0;
  std::vector<float> scratch;
  for (size_t s = 0; s + 1 < samples.offsets.size(); ++s)
    for (int r = samples.offsets[s] + 32; r < samples.offsets[s + 1]; ++r, ++rows)
      sum += Diverge(*RefKernels(), {reference.data() + size_t(r) * kVocab, kVocab}, {logits.data() + size_t(r) * kVocab, kVocab}, &scratch)
                 .kl;
  return sum / rows;
}

std::unique_ptr<Trials> Make(const std::shared_ptr<Model>& model) {
  const Samples samples = TwoSamples();
  auto trials = Trials::Create(model, samples.tokens, samples.offsets, {}, {});
  EXPECT(trials.ok());
  return trials.ok() ? std::move(trials.value()) : nullptr;
}

}  // namespace

LOWBIT_TEST(TrialsMeasureWhatTheCompressedModelPredicts) {
  const auto model = TinyModel("F32", /*fast=*/false, 2);
  const Samples samples = TwoSamples();
  const std::vector<float> reference = AllLogits(model, samples);
  const auto trials = Make(model);
  const int weights = static_cast<int>(model->plan().weights.size());
  EXPECT_NEAR(trials->Divergence(false, {}).value(), 0, 1e-9);
  for (int w = 1; w < weights; ++w) EXPECT(trials->Add(Round(w, 3), {}).ok() && trials->Variants(w) == 1);
  double last = -1;
  for (int w = 1; w < weights; w += 4) {
    const Swap swap{w, 0};
    EXPECT(trials->Bind({&swap, 1}).ok());
    const double measured = trials->Divergence(false, {}).value();
    // The exact path of a context on the same weights: int8 activations make the difference, a few per cent of what 3 bits do.
    const double expected = MeanDivergence(reference, AllLogits(model, samples), samples);
    EXPECT(expected > 1e-5 && measured != last);
    EXPECT_NEAR(measured / expected, 1, 0.2);
    last = measured;
  }
}

LOWBIT_TEST(TrialsOneByOneAreThoseInFull) {
  const auto model = TinyModel("F32", false, 2);
  const auto trials = Make(model);
  const int weights = static_cast<int>(model->plan().weights.size());
  std::vector<Swap> base, swaps;
  for (int w = 0; w < weights; ++w) {
    EXPECT(trials->Add(Round(w, 8), {}).ok() && trials->Add(Round(w, 2), {}).ok());
    base.push_back({w, 0});
    swaps.push_back({w, w % 3 == 0 ? -1 : 1});
  }
  EXPECT(trials->Bind(base).ok());
  const double before = trials->Divergence(false, {}).value();
  const auto each = trials->DivergenceOfEach(swaps, {});
  EXPECT(each.ok() && each.value().size() == swaps.size());
  EXPECT(trials->Divergence(false, {}).value() == before);
  for (size_t i = 0; i < swaps.size(); ++i) {
    EXPECT(trials->Bind({&swaps[i], 1}).ok());
    EXPECT(trials->Divergence(false, {}).value() == each.value()[i]);
    EXPECT(trials->Bind({&base[i], 1}).ok());
  }
  // The quick one is the first sample alone.
  EXPECT(trials->Divergence(true, {}).value() != before);
}

LOWBIT_TEST(TrialsLeaveTheModelAsItWas) {
  const auto model = TinyModel("BF16", false, 1);
  const Samples samples = TwoSamples();
  const std::vector<float> before = AllLogits(model, samples);
  {
    const auto trials = Make(model);
    const Solved first = trials->Add(Round(2, 4), {}).value();
    const Swap swap{2, 0};
    EXPECT(trials->Bind({&swap, 1}).ok());
    // From the uncompressed weight, whatever is in its place.
    EXPECT(trials->Add(Round(2, 4), {}).value().linear.error == first.linear.error);
    EXPECT(first.linear.affine.empty() && first.linear.error > 0);
    EXPECT(AllLogits(model, samples) != before);
  }
  EXPECT(AllLogits(model, samples) == before);
}

LOWBIT_TEST(TrialsEvolveFindsWhatItMeasures) {
  const auto model = TinyModel("F32", false, 2);
  const auto trials = Make(model);
  std::vector<int> weights;
  std::vector<std::vector<int>> variants;
  std::vector<Item> items;
  Choice start;
  int64_t budget = 0;
  for (int w = 2; w < static_cast<int>(model->plan().weights.size()); ++w) {
    Item item;
    for (const int bits : {2, 3, 4}) {
      EXPECT(trials->Add(Round(w, bits), {}).ok());
      item.push_back({int64_t(model->plan().weights[size_t(w)].n) * model->plan().weights[size_t(w)].k * bits, std::pow(4, -bits)});
    }
    weights.push_back(w);
    variants.push_back({0, 1, 2});
    budget += item[1].bytes;
    items.push_back(std::move(item));
    start.candidate.push_back(1);
  }
  const EvolveOptions options{6, 6, 2, 5};
  const auto evolved = trials->Evolve(weights, variants, items, budget, start, options, {});
  EXPECT(evolved.ok() && evolved.value().choice.bytes <= budget && evolved.value().choice.loss <= evolved.value().before);
  EXPECT(evolved.value().improvements == 0 || evolved.value().choice.loss < evolved.value().before);
  // What it found is in place.
  EXPECT(trials->Divergence(false, {}).value() == evolved.value().choice.loss);
  std::atomic<bool> cancel = true;
  Progress progress;
  progress.cancel = &cancel;
  EXPECT_ERROR(trials->Evolve(weights, variants, items, budget, start, options, progress).status(), Code::kCancelled, "aborted");
}

LOWBIT_TEST(TrialsRefuseWhatTheyCannotMeasure) {
  const Samples samples = TwoSamples();
  EXPECT_ERROR(Trials::Create(TinyModel("F32", true, 1), samples.tokens, samples.offsets, {}, {}).status(), Code::kInvalidArgument,
               "exact");
  const auto model = TinyModel("F32", false, 1);
  EXPECT_ERROR(Trials::Create(model, RandomTokens(1, 32), {0, 32}, {}, {}).status(), Code::kInvalidArgument, "32 tokens; expected 33");
  EXPECT_ERROR(Trials::Create(model, RandomTokens(1, 40), {0, 41}, {}, {}).status(), Code::kInvalidArgument, "offsets");
  EXPECT_ERROR(Trials::Create(model, std::vector<int32_t>(40, kVocab), {0, 40}, {}, {}).status(), Code::kInvalidArgument, "vocabulary");
  const auto trials = Make(model);
  const Swap none{3, 0}, unknown{999, 0};
  EXPECT_ERROR(trials->Bind({&none, 1}), Code::kInvalidArgument, "0 variants");
  EXPECT_ERROR(trials->DivergenceOfEach({&unknown, 1}, {}).status(), Code::kInvalidArgument, "no variants");
  EXPECT_ERROR(trials->Add(Round(999, 4), {}).status(), Code::kInvalidArgument, "not in the plan");
}

LOWBIT_TEST(TrialsTakeVariantsOfACalibration) {
  const auto model = TinyModel("F32", false, 2);
  const Samples samples = TwoSamples();
  const auto trials = Make(model);
  const std::vector<float> before = AllLogits(model, samples);
  auto calibration = Calibration::Create(model, samples.tokens, samples.offsets, {});
  EXPECT(calibration.ok());
  const auto stop = calibration.value()->Advance(true, {});
  EXPECT(stop.ok() && stop.value().weights.size() == 3);
  std::vector<SolveRequest> requests;
  for (const int bits : {3, 4}) {
    requests.push_back(Round(stop.value().weights[1], bits));
    requests.back().method = Method::kGptq;
  }
  const auto tried = calibration.value()->Try(*trials, requests, {});
  EXPECT(tried.ok() && tried.value().size() == 2 && trials->Variants(requests[0].weight) == 2);
  EXPECT(tried.value()[1].linear.error < tried.value()[0].linear.error && tried.value()[1].tokens == 115);
  EXPECT(AllLogits(model, samples) == before);
  EXPECT_ERROR(calibration.value()->Try(*trials, {Round(0, 4)}, {}).status(), Code::kInvalidArgument, "does not belong");
}
