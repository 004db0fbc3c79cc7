"""Multi-task learning for shops: a small reference package, to be read and to be copied.

The files follow the seven steps of a multi-task project, in the order in which data flows;
``checks`` refuses bad input for all of them:

1. data: ``shop`` and ``market`` (a simulated shop whose truth is known), ``datasets`` (real)
2. features: ``features`` (tables to numbers; its arithmetic in ``moments``), ``batches`` (tensors to batches)
3. tasks: ``metrics``, ``labels`` (reading target columns), ``tasks`` (their likelihood, link and metrics);
   with them ``shards`` (mini-batches of what does not fit in memory; ``parquet`` reads and writes the files)
4. model: ``encoders`` (F), ``models`` (F with one head G_i per task)
5. training: ``weighting`` (rules that combine losses), ``balancing`` (rules that read the Gram matrix of the
   task gradients; exact ``solvers`` below it), ``ranks`` (several processes), ``checkpoints``,
   ``optimisers``, ``backpropagation`` (the chain rule written out), ``steps`` (one batch), ``runs`` (where a
   training stands), ``training`` (``fit``)
6. evaluation: ``evaluation`` (intervals, paired comparisons, the sceptic's probes; inside it ``folding``)
7. application: ``fusion`` (several scores, one order), ``serving`` (a model bundle), ``rows`` and
   ``onnx_export`` (the bundle without torch), ``monitoring``, ``payloads``, ``workers`` and ``service``
   (the bundle behind HTTP), ``plots``

A file imports only from files above it. Copying this folder is the installation.
"""

__version__ = "0.1.0"
