"""What other Python tools read from files, for test/interop/other_tools.test.ts.

usage: other_tools.py probe            prints what is installed as JSON, {} when nothing is
       other_tools.py gguf FILE OUT    prints {"metadata": {...}, "tensors": {name: {type, shape}}} of the package gguf and writes every
                                       tensor, de-quantised by it, to OUT as F32, one after the other in the order of the names
       other_tools.py logits DIRECTORY TOKEN ...   prints {"logits": [...]} of transformers in f32, row-major
"""
import contextlib
import importlib
import importlib.metadata
import json
import sys


def installed():
    found = {}
    for name, package in (("gguf", "gguf"), ("torch", "torch"), ("transformers", "transformers"), ("compressed_tensors", "compressed-tensors")):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
            found[package] = importlib.metadata.version(package)
    return found


def read_gguf(file, out):
    import numpy
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)
    metadata = {}
    for name, field in reader.fields.items():
        value = field.contents()
        metadata[name] = len(value) if isinstance(value, list) else value
    tensors = {}
    with open(out, "wb") as target:
        for tensor in sorted(reader.tensors, key=lambda one: one.name):
            values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
            shape = [int(side) for side in reversed(tensor.shape)]
            tensors[tensor.name] = {"type": tensor.tensor_type.name, "shape": shape}
            target.write(values.reshape(shape).tobytes())
    return {"metadata": metadata, "tensors": tensors}


def logits(directory, tokens):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        rows = model(input_ids=torch.tensor([[int(t) for t in tokens]])).logits[0].float()
    return {"logits": rows.flatten().tolist()}


def main(arguments):
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # the tools print banners
        if arguments == ["probe"]:
            answer = installed()
        elif arguments[0] == "gguf":
            answer = read_gguf(*arguments[1:])
        else:
            answer = logits(arguments[1], arguments[2:])
    json.dump(answer, out)


if __name__ == "__main__":
    main(sys.argv[1:])
