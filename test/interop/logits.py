"""Logits of a GPTQ checkpoint in another tool, for test/interop/gptq.test.ts.

usage: logits.py probe                       prints what is installed as JSON, {} when nothing is
       logits.py TOOL DIRECTORY TOKEN ...    prints {"logits": [...]} of TOOL ("gptqmodel" or "transformers"), row-major, f32
"""
import contextlib
import importlib
import importlib.metadata
import json
import sys


def installed():
    found = {}
    for name in ("torch", "transformers", "gptqmodel"):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
            found[name] = importlib.metadata.version(name)
    return found


def load(tool, directory):
    import torch

    if tool == "gptqmodel":
        from gptqmodel import BACKEND, GPTQModel

        return GPTQModel.load(directory, device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, device_map="cpu", dtype=torch.float16)


def main(arguments):
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # the tools print banners
        if arguments == ["probe"]:
            answer = installed()
        else:
            import torch

            tool, directory, *tokens = arguments
            model = load(tool, directory)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[int(t) for t in tokens]])).logits[0].float()
            answer = {"logits": logits.flatten().tolist()}
    json.dump(answer, out)


if __name__ == "__main__":
    main(sys.argv[1:])
