"""Multi-task learning for shops: a small reference package, to be read and to be copied.

The files follow the seven steps of a multi-task project, in the order in which data flows:

1. data: ``shop`` and ``market`` (a simulated shop whose truth is known), ``datasets`` (real)
2. features: ``features`` (tables to numbers), ``batches`` (tensors to mini-batches)
3. tasks: ``metrics``, ``labels`` (reading target columns), ``tasks`` (their likelihood, link and metrics)
4. model: ``encoders`` (F), ``models`` (F with one head G_i per task)
5. training: ``weighting`` (rules that combine losses), ``training`` (``fit``)
6. evaluation: ``evaluation`` (intervals, paired comparisons, the sceptic's probes)
7. application: ``serving`` (a model bundle), ``plots``

A file imports only from files above it. Copying this folder is the installation.
"""

__version__ = "0.1.0"
