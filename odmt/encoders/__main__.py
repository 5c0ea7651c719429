"""Encode titles, pictures or clips: `python -m odmt.encoders data/microlens --modality text --encoder NAME`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from odmt.encoders import KNOWN, EncoderError, load_encoder
from odmt.spec import SpecError

if TYPE_CHECKING:
    from odmt.encoders.caching import EncodedModality

EPILOG = """encoders
  text    a transformers model: a name of the model hub (sentence-transformers/all-MiniLM-L6-v2) or a folder that
          holds one; or 'tfidf(dim=64)', which needs no weights
  image   a timm model (vit_base_patch32_clip_224.openai), with arguments where wanted
          ('resnet18(checkpoint="resnet18.safetensors")'); a transformers model (openai/clip-vit-base-patch32, or a
          folder that holds one, of either); or 'histogram(bins=8)', which needs no weights
  video   a transformers model (MCG-NJU/videomae-base), a 3-D network of torchvision ('r3d_18(frames=16)'), or a timm
          model of pictures, which reads frame by frame ('vit_base_patch32_clip_224.openai(frames=8)')
  own     package.module:Class(argument=value), anything that follows odmt.encoders.Encoder

The features go to DATASET/features/MODALITY/KEY, with the recipe that made them. A run that was stopped goes on where
it stopped; a finished one is skipped. Pictures and clips that cannot be read are listed at the end, and those items
lack the modality.
"""
BATCH_SIZES = {"text": 128, "image": 32, "video": 8}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what is not given is left to the encoder's own defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m odmt.encoders",
        description="Write the token features of a frozen encoder into a dataset folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("dataset", help="a dataset folder, or its name below data/")
    parser.add_argument("--modality", required=True, help=f"what to encode: {' or '.join(KNOWN)}")
    parser.add_argument("--encoder", required=True, help="which encoder, see below")
    parser.add_argument("--layer", type=int, help="hidden layer of a text model, -1 is the last (default -1)")
    parser.add_argument("--max-tokens", type=int, help="cut texts to so many tokens (default 30)")
    parser.add_argument("--pool", choices=["mean"], help="keep one token per item, the mean of all (default: keep all)")
    parser.add_argument("--batch-size", type=int, help="items encoded at a time (default: text 128, image 32, video 8)")
    parser.add_argument("--bf16", action="store_true", help="compute matrix products in bfloat16: about twice as fast")
    parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps (default auto)")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    chosen = vars(parse(argv))
    # what brings torch comes now, because --help can do without
    from odmt.data.features import FeatureError
    from odmt.data.format import DatasetError, find_dataset, open_dataset
    from odmt.encoders.caching import encode_modality
    from odmt.encoders.pooled import MeanPooled

    modality = chosen["modality"]
    options = {name: chosen[name] for name in ("layer", "max_tokens", "bf16", "device") if name in chosen}
    try:
        dataset = open_dataset(find_dataset(chosen["dataset"]))
        encoder = load_encoder(modality, chosen["encoder"], **options)
        encoder = MeanPooled(encoder) if "pool" in chosen else encoder
        batch_size = chosen.get("batch_size", BATCH_SIZES[modality])
        if batch_size < 1:
            raise EncoderError(f"--batch-size is {batch_size}, must be at least 1")
        result = encode_modality(dataset, modality, encoder, batch_size=batch_size)
        print("\n".join(describe(result, dataset.ids())))
    except (DatasetError, EncoderError, FeatureError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def describe(result: EncodedModality, ids: Sequence[str]) -> list[str]:
    """Tell in lines what a feature folder holds, and each item that could not be read with its reason."""
    lacking = result.items - result.items_with_tokens - len(result.unreadable)
    counts = (
        f"{result.items_with_tokens:,} of {result.items:,} items have {result.tokens:,} tokens; {lacking:,} have no "
        f"content, {len(result.unreadable):,} could not be read"
    )
    if result.skipped:
        again = f"; {len(result.unreadable):,} items could not be read, delete {result.folder} to try them again"
        lines = [f"{result.folder}: there already, skipped{again if result.unreadable else ''}", counts]
    else:
        rate = result.new_tokens / max(result.seconds, 1e-9)
        lines = [f"{result.folder}: written", counts]
        lines.append(f"{result.new_tokens:,} tokens in {result.seconds:.1f} s, {rate:,.0f} tokens/s")
    return lines + [f"  item {ids[item - 1]}: {reason}" for item, reason in result.unreadable.items()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
