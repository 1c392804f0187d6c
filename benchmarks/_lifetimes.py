"""The public package lifetimes, asked line by line; runs in that package's own interpreter, without headrace.

Reads one JSON object a line and writes one back:

    {"do": "load", "file": FILE.npz}                      repeats, recency, age, spend from now on
    {"do": "fit"}                                         both models; parameters, CPU seconds of each
    {"do": "purchases"}                                   BG/NBD alone, as it comes, without a penalty
    {"do": "likelihood", "at": [r, alpha, a, b]}          log-likelihood of BG/NBD, and
    {"do": "spending", "at": [p, q, v]}                   of Gamma-Gamma at given parameters
    {"do": "predict", "days": h, "file": FILE.npy}        expected purchases and spend of a purchase, (2, N)
"""

import json
import sys
import time
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
from lifetimes import BetaGeoFitter, GammaGammaFitter  # type: ignore[import-not-found]

warnings.filterwarnings("ignore")


def main() -> None:
    """Answer until the lines end."""
    data: dict[str, Any] = {}
    models: dict[str, Any] = {}
    paid = np.zeros(0, bool)
    for line in sys.stdin:
        asked = json.loads(line)
        what = asked["do"]
        answer: dict[str, Any] = {"version": version("lifetimes")}
        if what == "load":
            data = dict(np.load(asked["file"]))
            if "spend" in data:
                paid = (data["repeats"] > 0) & (data["spend"] > 0)
        elif what in ("fit", "purchases"):
            begun = time.process_time()
            try:
                models["purchases"] = BetaGeoFitter().fit(data["repeats"], data["recency"], data["age"])
                answer["purchases"] = [float(value) for value in models["purchases"].params_]
            except Exception as error:  # whatever it fails with is reported
                answer["failed"] = f"{type(error).__name__}"
            answer["purchases_s"] = time.process_time() - begun
            if what == "fit":
                begun = time.process_time()
                models["spending"] = GammaGammaFitter().fit(data["repeats"][paid], data["spend"][paid])
                answer["spending_s"] = time.process_time() - begun
                answer["spending"] = [float(value) for value in models["spending"].params_]
        elif what == "likelihood":
            ones = np.ones(len(data["age"]))
            value = BetaGeoFitter._negative_log_likelihood(
                np.log(asked["at"]), data["repeats"], data["recency"], data["age"], ones, 0
            )
            answer["value"] = -float(value) * len(ones)
        elif what == "spending":
            ones = np.ones(int(paid.sum()))
            value = GammaGammaFitter._negative_log_likelihood(
                np.log(asked["at"]), data["repeats"][paid], data["spend"][paid], ones, 0
            )
            answer["value"] = -float(value) * len(ones)
        elif what == "predict":
            begun = time.process_time()
            often = models["purchases"].conditional_expected_number_of_purchases_up_to_time(
                asked["days"], data["repeats"], data["recency"], data["age"]
            )
            much = models["spending"].conditional_expected_average_profit(data["repeats"], data["spend"])
            answer["s"] = time.process_time() - begun
            np.save(asked["file"], np.stack([often, much]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
