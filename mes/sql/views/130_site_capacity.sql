CREATE VIEW report.site_capacity AS
SELECT
    s.code AS site,
    d.production_day,
    c.planned_gwh,
    c.phases,
    sum(d.good * p.energy_wh * d.days_per_year / 1e9) AS run_rate_gwh,
    sum(d.good * p.energy_wh * d.days_per_year / 1e9) / nullif(c.planned_gwh, 0) AS attainment,
    sum(d.good * p.energy_wh / 1e6) AS energy_mwh
FROM kpi.day d
JOIN mes.line l USING (line_id)
JOIN mes.product p USING (product_id)
JOIN mes.site s USING (site_id)
CROSS JOIN LATERAL (
    SELECT sum(x.gwh_per_year) AS planned_gwh, string_agg(x.phase, ', ' ORDER BY x.from_day, x.phase) AS phases
    FROM mes.site_capacity x WHERE x.site_id = s.site_id AND x.from_day <= d.production_day
) AS c
GROUP BY s.code, d.production_day, c.planned_gwh, c.phases;

COMMENT ON VIEW report.site_capacity IS 'Capacity programme of each site against what its lines make, by production day.';
COMMENT ON COLUMN report.site_capacity.site IS 'code of the site';
COMMENT ON COLUMN report.site_capacity.production_day IS 'local date on which the production day began at the site';
COMMENT ON COLUMN report.site_capacity.planned_gwh IS 'GWh a year of the phases in force on that day; NULL where the site has no programme';
COMMENT ON COLUMN report.site_capacity.phases IS 'their names';
COMMENT ON COLUMN report.site_capacity.run_rate_gwh IS 'GWh a year at that day''s output of all lines, each over the production days a year of its target';
COMMENT ON COLUMN report.site_capacity.attainment IS 'run_rate_gwh / planned_gwh; NULL without programme';
COMMENT ON COLUMN report.site_capacity.energy_mwh IS 'nominal energy of the day''s good cells, MWh';
