"""bench/engines: one GPTQ run of GPTQModel on the CPU: load, quantise, save, as lowbit's own run does.

Takes a JSON request as its argument and prints one line of JSON. Task "probe": the version. Task "quantize": model, output, text,
samples, length, bits, group_size, threads; the samples are the first samples * length tokens of the text.
"""

import json
import os
import resource
import sys
import tempfile
import time


def main() -> None:
    request = json.loads(sys.argv[1])
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")  # its pool asks for two, and refuses to start where it counts fewer
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it writes logs into the folder where it runs; paths of the request are absolute
        run(request)
        os.chdir("/")


def run(request: dict) -> None:
    import gptqmodel

    if request["task"] == "probe":
        print(json.dumps({"gptqmodel": gptqmodel.__version__}))
        return
    import torch
    import transformers

    torch.set_num_threads(request["threads"])
    begin = time.perf_counter()
    tokenizer = transformers.AutoTokenizer.from_pretrained(request["model"])
    with open(request["text"], encoding="utf-8", newline="") as file:
        ids = tokenizer(file.read(), add_special_tokens=False)["input_ids"]
    length = request["length"]
    samples = [ids[i * length : (i + 1) * length] for i in range(request["samples"])]
    if len(samples[-1]) < length:
        raise SystemExit(f"{request['text']} has {len(ids)} tokens; {request['samples'] * length} are needed")
    settings = gptqmodel.QuantizeConfig(bits=request["bits"], group_size=request["group_size"], desc_act=False, sym=True, damp_percent=0.05)
    model = gptqmodel.GPTQModel.load(request["model"], settings, device="cpu")
    model.quantize([{"input_ids": s, "attention_mask": [1] * length} for s in samples], batch_size=1)
    model.save(request["output"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": time.perf_counter() - begin, "peak_rss_bytes": peak}))


main()
