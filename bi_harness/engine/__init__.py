"""Starting, driving and stopping a real vLLM.

Two sides that never share an interpreter. The *client* side (``client``, ``config``, ``process``,
``site``) runs in the harness and imports neither torch nor vLLM. The *worker* side (``worker``,
``step_probe``, ``worker_extension``) runs under the engine's interpreter, which may have vLLM and nothing
of the harness's own dependencies: it imports the standard library, numpy, torch and vLLM alone.
"""
