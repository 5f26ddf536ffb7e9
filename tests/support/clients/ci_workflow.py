"""Reads a workflow file as its platform does.

Usage: ci_workflow.py schema github|gitlab FILE   validates it against the platform's published schema, which check-jsonschema brings along
       ci_workflow.py job github|gitlab FILE      prints the job as JSON: its shell script, its environment and the tokens that it may have
"""

import json
import sys

import check_jsonschema
import yaml

OPTIONS = {
    "github": ["--builtin-schema", "vendor.github-workflows"],
    "gitlab": ["--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"],
}


def job_of_github(workflow):
    [job] = workflow["jobs"].values()
    # What is installed by the test, and what is of the platform, is left out.
    steps = [step for step in job["steps"] if "run" in step and step["name"] != "Install oci-secrets"]
    return {
        "script": [step["run"] for step in steps if step.get("if") != "always()"],
        "after": [step["run"] for step in steps if step.get("if") == "always()"],
        "env": job["env"],
        "shell": workflow["defaults"]["run"]["shell"],
        "has_identity": (job.get("permissions") or workflow.get("permissions"))["id-token"] == "write",
        "id_tokens": {},
    }


def job_of_gitlab(workflow):
    [job] = workflow.values()
    return {
        "script": ["\n".join(job["script"])],
        "after": job["after_script"],
        "env": {},
        "shell": "bash",
        "has_identity": False,
        "id_tokens": {name: token["aud"] for name, token in job["id_tokens"].items()},
    }


command, platform, path = sys.argv[1:]
if command == "schema":
    check_jsonschema.main([*OPTIONS[platform], path])
else:
    with open(path) as file:
        workflow = yaml.safe_load(file)
    print(json.dumps({"github": job_of_github, "gitlab": job_of_gitlab}[platform](workflow)))
