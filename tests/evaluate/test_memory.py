"""Scores of many images and texts are counted in bounded memory."""

import subprocess
import sys

SCRIPT = """
import numpy as np
from kdx.evaluate.retrieval import score_retrieval
from kdx.evaluate.speed import peak_of_this_process

images, texts = (np.random.default_rng(n).standard_normal((n, 64), dtype=np.float32) for n in (1_000, 25_000))
captions = [[f"caption {25 * row + n}" for n in range(25)] for row in range(1_000)]
before = peak_of_this_process()
score_retrieval(lambda _: texts, images, captions)
print(peak_of_this_process() - before)
"""


def test_a_thousand_images_among_25000_captions_need_less_than_300_mib() -> None:
    # all scores at once, and what is compared with them, would be over 400 MiB, five times that for 5,000 images
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300
