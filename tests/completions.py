"""Complete many short flow runs, two at a time, against the server that the environment names.

python -m tests.completions COUNT
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from prefect import flow
from prefect.client.schemas.objects import State


@flow(name="retrieval", persist_result=False)  # a name that the automation watches over
def short(number: int) -> int:
    """A flow that does next to nothing."""
    return number


def main(count: int) -> None:
    """Run them and print how they ended."""
    states: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as pool:
        for state in pool.map(lambda number: short(number, return_state=True), range(count)):
            assert isinstance(state, State)
            states[state.type.value] += 1
    print(json.dumps(states))


if __name__ == "__main__":
    main(int(sys.argv[1]))
