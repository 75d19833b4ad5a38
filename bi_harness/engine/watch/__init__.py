"""What each module of a running model is given and gives back, row by row of one request.

Worker side: standard library, numpy, torch and vLLM alone. ``rows`` takes digests and bits of rows,
``layout`` finds out which rows of a step are a request's, ``calls`` gets between a module and its callers,
``watcher`` puts them together; ``bi_harness.localize`` reads what comes of it.
"""
