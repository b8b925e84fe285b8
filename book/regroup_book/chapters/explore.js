// Fills the exhibits of explore.py: options, numbers, and the data sets of their Vega charts.
window.explore = (() => {
  const percent = (share) => (share === null ? "none called" : `${(100 * share).toFixed(1)}%`);
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

  const fill = (select, names) => {
    const before = select.value;
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.map(String).includes(before)) select.value = before;
  };

  // A chart's data sets are changed one by one, and it is drawn once.
  const draw = (views, data) =>
    Promise.all(
      Object.values(views).map(({ view, names }) => {
        for (const name of Object.keys(data)) if (names.includes(name)) view.data(name, data[name]);
        return view.runAsync();
      }),
    );

  const embed = async (root, charts, data) => {
    const views = {};
    for (const [name, spec] of Object.entries(charts)) {
      const place = root.querySelector(`[data-chart="${name}"]`);
      const options = { actions: false, renderer: "svg", tooltip: { theme: "custom" } };
      const { view } = await vegaEmbed(place, { ...spec, datasets: data }, options);
      place.setAttribute("role", "img"); // with one description, in place of Vega's own for each mark
      place.removeAttribute("aria-roledescription");
      place.querySelector("svg").setAttribute("aria-hidden", "true");
      // Vega fits its place when the window changes; the place also changes while the page is built.
      new ResizeObserver(() => window.dispatchEvent(new Event("resize"))).observe(place);
      views[name] = { view, names: Object.keys(view.getState({ signals: () => false, data: () => true }).data) };
    }
    return views;
  };

  // What a threshold finds. Counts are of samples from one threshold to the next.
  const measure = (run, step) => {
    const { step: steps, negatives, positives } = run.counts;
    const called = (counts) => sum(counts.filter((_, i) => steps[i] >= step));
    const [n, p, fp, tp] = [sum(negatives), sum(positives), called(negatives), called(positives)];
    return {
      tn: n - fp, fp, fn: p - tp, tp,
      accuracy: ((n - fp) / n + tp / p) / 2,
      precision: fp + tp ? tp / (fp + tp) : null,
      recall: tp / p,
      chance: p / (n + p),
    };
  };

  const chartData = (run) => ({
    counts: ["negatives", "positives"].flatMap((name) =>
      run.counts.step.map((step, i) => ({ step, class: name, samples: run.counts[name][i] })),
    ),
    curve: run.curve.recall.map((recall, index) => ({ index, recall, precision: run.curve.precision[index] })),
  });

  const thresholds = async (root, use, { data, charts }) => {
    const method = () => {
      const task = data.tasks.find((one) => one.name === use.task.value);
      return task.methods.find((one) => one.name === use.method.value) ?? task.methods[0];
    };
    const run = () => method().runs.find((one) => String(one.seed) === use.seed.value) ?? method().runs[0];
    const point = () => {
      const found = measure(run(), Number(use.threshold.value));
      const threshold = Number(use.threshold.value) / data.steps;
      return { found, at: [{ threshold, prevalence: found.chance, recall: found.recall, precision: found.precision }] };
    };
    const options = () => {
      fill(use.method, data.tasks.find((one) => one.name === use.task.value).methods.map((one) => one.name));
      fill(use.seed, method().runs.map((one) => one.seed));
    };
    fill(use.task, data.tasks.map((one) => one.name));
    options();
    use.threshold.max = data.steps;
    const views = await embed(root, charts, { ...chartData(run()), at: point().at });

    const say = () => {
      const { found, at } = point();
      const texts = {
        shown: at[0].threshold.toFixed(3),
        "true-negatives": found.tn.toLocaleString("en"), "false-positives": found.fp.toLocaleString("en"),
        "false-negatives": found.fn.toLocaleString("en"), "true-positives": found.tp.toLocaleString("en"),
        "balanced-accuracy": percent(found.accuracy), precision: percent(found.precision),
        recall: percent(found.recall), ap: percent(run().ap), chance: percent(found.chance), record: run().key,
      };
      for (const [name, text] of Object.entries(texts)) use[name].textContent = text;
      use.record.href = run().record;
      const result = `balanced accuracy ${texts["balanced-accuracy"]}, precision ${texts.precision}, recall ${texts.recall}`;
      use.threshold.setAttribute("aria-valuetext", `${texts.shown}: ${result}`);
      const name = `${use.task.value}, ${use.method.value}, seed ${use.seed.value}`;
      root.querySelector("[data-chart='scores']").setAttribute("aria-label",
        `Histograms of the scores of negatives and positives, ${name}, threshold ${texts.shown}.`);
      root.querySelector("[data-chart='curve']").setAttribute("aria-label",
        `Precision over recall, ${name}, average precision ${texts.ap}. At the threshold: ${result}.`);
      return at;
    };
    const show = (event) => {
      if (event?.target === use.task || event?.target === use.method) options();
      const at = say();
      return draw(views, event?.target === use.threshold ? { at } : { ...chartData(run()), at });
    };
    root.addEventListener("input", show);
    say();
  };

  const spaces = async (root, use, { data, charts }) => {
    const space = () => data.spaces.find((one) => one.name === use.space.value) ?? data.spaces[0];
    const run = () => space().runs.find((one) => String(one.seed) === use.seed.value) ?? space().runs[0];
    const points = () => data.points.map((point, i) => ({ ...point, x: run().x[i], y: run().y[i] }));
    const chosen = () => [points()[Number(use.point.value) - 1]];
    fill(use.space, data.spaces.map((one) => one.name));
    fill(use.seed, space().runs.map((one) => one.seed));
    use.point.max = data.points.length;
    const views = await embed(root, charts, { points: points(), chosen: chosen() });

    const say = () => {
      const point = data.points[Number(use.point.value) - 1];
      use.shown.textContent = `${point.number} of ${data.points.length}`;
      use.says.textContent = point.class;
      use.picture.src = point.image;
      use.picture.alt = `test image ${point.number}: ${point.class}`;
      use.point.setAttribute("aria-valuetext", `${point.number}: ${point.class}`);
      root.querySelector("[data-chart]").setAttribute("aria-label",
        `Scatter plot of ${data.points.length} test images of ${data.task} by t-SNE, ${use.space.value}, colored by class.`);
    };
    root.addEventListener("input", (event) => {
      if (event.target === use.space) fill(use.seed, space().runs.map((one) => one.seed));
      say();
      return draw(views, event.target === use.point ? { chosen: chosen() } : { points: points(), chosen: chosen() });
    });
    // The pointer, or a finger, chooses the point that it is on.
    for (const gesture of ["pointerover", "click"]) {
      views.space.view.addEventListener(gesture, (_, item) => {
        if (!item?.datum?.number || String(item.datum.number) === use.point.value) return;
        use.point.value = item.datum.number;
        say();
        draw(views, { chosen: chosen() });
      });
    }
    say();
  };

  const start = () => {
    for (const root of document.querySelectorAll(".explore:not([data-started])")) {
      root.dataset.started = "";
      const use = Object.fromEntries([...root.querySelectorAll("[data-use]")].map((one) => [one.dataset.use, one]));
      const values = JSON.parse(root.querySelector("script[type='application/json']").textContent);
      ({ thresholds, spaces })[root.dataset.kind](root, use, values);
    }
  };
  return { start };
})();
