"""A camera program: each picture of a folder goes to the agent through shared memory, and the verdict is printed.

    linewatch agent --models component &
    python examples/camera.py unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock model-parts pictures

Needs the extra agent.
"""

import sys
from pathlib import Path

from linewatch import AgentClient, read_picture


def main() -> None:
    """Ask about every picture."""
    address, model, folder = sys.argv[1:]
    with AgentClient(address) as agent:
        agent.start(model)
        for path in sorted(Path(folder).iterdir()):
            verdict, _mask = agent.detect(read_picture(path), model)
            print(f"{path.name}: {'anomalous' if verdict.is_anomalous else 'normal'} {verdict.confidence:.2f}", flush=True)


if __name__ == "__main__":
    main()
