"""Renders the chart with Helm's own code. As a program: render.py VALUES prints the objects as JSON."""

import json
import sys
from pathlib import Path

import helm_python as helm
import yaml

TOP = Path(__file__).resolve().parents[2]
CHART = TOP / "packaging/helm/oci-secrets"
NAMESPACE = "oci-secrets"


def render(values):
    """The objects of a release, if the schema accepts the values."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files = chart.render(values, name="oci-secrets", namespace=NAMESPACE)
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


if __name__ == "__main__":
    json.dump(render(yaml.safe_load(Path(sys.argv[1]).read_text())), sys.stdout)
