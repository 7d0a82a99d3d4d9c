"""bench/engines: one measurement of torch and transformers in f32 on the CPU, the counterpart of lowbit's exact path.

Takes a JSON request as its argument and prints one line of JSON. Task "probe": versions. Task "speed": compares the logits of given
ids with a file of float32 that lowbit wrote, then times a prompt alone and a greedy generation alone, one warm-up of each.
"""

import json
import sys
import time


def main() -> None:
    request = json.loads(sys.argv[1])
    import numpy
    import torch
    import transformers

    if request["task"] == "probe":
        print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}))
        return
    torch.set_num_threads(request["threads"])
    torch.set_grad_enabled(False)
    model = transformers.AutoModelForCausalLM.from_pretrained(request["model"], dtype=torch.float32, attn_implementation="sdpa").eval()
    vocabulary = model.config.vocab_size
    ids = torch.tensor([request["ids"]])
    ours = torch.from_numpy(numpy.fromfile(request["logits"], dtype=numpy.float32).reshape(-1, vocabulary))
    theirs = model(ids).logits[0]
    answer = {"largest_difference": (ours - theirs).abs().max().item(), "largest_logit": theirs.abs().max().item()}

    def any_tokens(count):
        return torch.tensor([[(i * 7919 + 13) % vocabulary for i in range(count)]])

    def prefill():
        prompt = any_tokens(request["prompt"])
        start = time.perf_counter()
        model(prompt, use_cache=True, logits_to_keep=1)
        return request["prompt"] / (time.perf_counter() - start)

    def decode(count):
        out = model(any_tokens(1), use_cache=True)
        start = time.perf_counter()
        for _ in range(count):
            out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)
        return count / (time.perf_counter() - start)

    prefill()
    answer["prefill_tokens_per_second"] = prefill()
    decode(4)
    answer["decode_tokens_per_second"] = decode(request["generate"])
    print(json.dumps(answer))


main()
